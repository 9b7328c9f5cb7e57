"""The control-plane figures: latencies to the final status, and rates of reads."""

import os
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from .rest import Cloud, Rest

IMAGE_BYTES = 16 * 1024 * 1024


@dataclass
class Side:
    """One cloud under measurement, and what was made there."""

    name: str
    cloud: Cloud
    rest: Rest = field(init=False)
    image: str = ""
    source: str = ""
    snapshot: str = ""

    def __post_init__(self) -> None:
        self.rest = self.cloud.volume()

    def prepare(self) -> None:
        """An active raw image, a volume and a snapshot to make volumes from."""
        images = self.cloud.image()
        body = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
        self.image = images.ok("POST", "/images", body)["id"]
        data = os.urandom(IMAGE_BYTES)
        images.ok("PUT", f"/images/{self.image}/file", data, content_type="application/octet-stream")
        self.source, _ = self.create("volumes", {"size": 1})
        self.snapshot, _ = self.create("snapshots", {"volume_id": self.source})

    def clean_up(self) -> None:
        self.delete("snapshots", self.snapshot)
        self.delete("volumes", self.source)
        self.cloud.image().ok("DELETE", f"/images/{self.image}")

    def create(self, collection: str, body: dict) -> tuple[str, float]:
        """Creates and waits for `available`; returns the id and the milliseconds."""
        key = collection.rstrip("s")
        began = time.perf_counter()
        identity = self.rest.ok("POST", f"/{collection}", {key: {"name": "bench", **body}})[key]["id"]
        answer = self.rest.until(
            f"/{collection}/{identity}", lambda answer: answer.body[key]["status"] not in ("creating", "downloading"),
            pause_s=0.001,
        )
        taken = (time.perf_counter() - began) * 1000
        assert answer.body[key]["status"] == "available", answer.body
        return identity, taken

    def delete(self, collection: str, identity: str) -> float:
        """Deletes and waits for 404; returns the milliseconds."""
        began = time.perf_counter()
        self.rest.ok("DELETE", f"/{collection}/{identity}")
        self.rest.until(f"/{collection}/{identity}", lambda answer: answer.status == 404, pause_s=0.001)
        return (time.perf_counter() - began) * 1000

    def reads_per_second(self, path: str, connections: int, seconds: int) -> float:
        """wrk against one path; every answer must be 200."""
        script = 'done = function(s, l, r) if s.errors.status > 0 then os.exit(3) end end'
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            result = subprocess.run(
                ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name,
                 "-H", f"X-Auth-Token: {self.cloud.token}", "-H", "OpenStack-API-Version: volume 3.71",
                 self.cloud.volume_url.rstrip("/") + path],
                capture_output=True, text=True,
            )
        found = re.search(r"Requests/sec:\s+([\d.]+)", result.stdout)
        assert result.returncode == 0 and found, f"wrk: {result.stdout}{result.stderr}"
        return float(found.group(1))

    def read_ms(self, path: str, times: int) -> float:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            self.rest.ok("GET", path)
            taken.append((time.perf_counter() - began) * 1000)
        return statistics.median(taken)


def measure(sides: list[Side], rounds: int, list_lengths: tuple[int, int], short: bool) -> dict[str, dict[str, float]]:
    """Every figure for every side, the sides taking turns in each round."""
    samples: dict[str, dict[str, list[float]]] = {}

    def note(figure: str, side: Side, value: float) -> None:
        samples.setdefault(figure, {}).setdefault(side.name, []).append(value)

    for side in sides:
        side.prepare()
    for _ in range(3 if short else rounds):
        for side in sides:
            bodies = {
                "empty": {"size": 1},
                "from raw image": {"size": 1, "imageRef": side.image},
                "from snapshot": {"size": 1, "snapshot_id": side.snapshot},
                "from volume": {"size": 1, "source_volid": side.source},
            }
            for kind, body in bodies.items():
                identity, taken = side.create("volumes", body)
                note(f"POST to available, {kind}, ms", side, taken)
                note(f"DELETE to 404, {kind}, ms", side, side.delete("volumes", identity))
            identity, taken = side.create("snapshots", {"volume_id": side.source})
            note("snapshot POST to available, ms", side, taken)
            note("snapshot DELETE to 404, ms", side, side.delete("snapshots", identity))
    for side in sides:
        for connections in (1, 8):
            rate = side.reads_per_second(f"/volumes/{side.source}", connections, 1 if short else 5)
            note(f"GET one volume, {connections} connections, per s", side, rate)
    for side in sides:
        made = [side.source]
        for length in list_lengths:
            while len(made) < length:
                made.append(side.create("volumes", {"size": 1})[0])
            note(f"detail list of {length} volumes, ms", side, side.read_ms(f"/volumes/detail?limit={length}", 10))
        for identity in made[1:]:
            side.delete("volumes", identity)
        side.clean_up()
    return {
        figure: {name: statistics.median(values) for name, values in by_side.items()}
        for figure, by_side in samples.items()
    }
