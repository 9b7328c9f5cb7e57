"""The image figures: data in and out against a real Glance and against plain copying, lists, memory."""

import hashlib
import http.server
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from . import prepare
from .rest import Rest

LAB_GLANCE = prepare.ROOT / "devstack" / "lab" / "glance"
PIECE_BYTES = 1 << 20


class Plain(http.server.BaseHTTPRequestHandler):
    """Takes a file and hashes it as an image service must; gives it back. The least one can do."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_PUT(self) -> None:
        hashes = [hashlib.md5(), hashlib.sha512()]
        left = int(self.headers["Content-Length"])
        with (self.folder / "plain").open("wb") as file:
            while left:
                piece = self.rfile.read(min(left, PIECE_BYTES))
                for one in hashes:
                    one.update(piece)
                file.write(piece)
                left -= len(piece)
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        with (self.folder / "plain").open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            while piece := file.read(PIECE_BYTES):
                self.wfile.write(piece)

    def log_message(self, *_) -> None:
        pass


class PlainServer:
    """The plain server in a thread of its own."""

    name = "plain copy"

    def __init__(self, folder: Path):
        self.folder = folder
        handler = type("Handler", (Plain,), {"folder": folder})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def transfer(self, path: Path) -> tuple[float, float, float]:
        up, down = curl("-T", str(path), self.url), curl(self.url)
        forget([self.folder / "plain"])
        return up, down, curl(self.url)

    def stop(self) -> None:
        self.server.shutdown()


class Service:
    """An image service: Basalt, or a Glance."""

    def __init__(self, name: str, url: str, token: str, folder: Path | None = None):
        """`folder`: where its data lies, if the operating system remembers that."""
        self.name, self.folder = name, folder
        self.rest = Rest(f"{url.rstrip('/')}/v2", token, {})
        self.base = f"{url.rstrip('/')}/v2"
        self.headers = ["-H", f"X-Auth-Token: {token}", "-H", "Content-Type: application/octet-stream"]

    def record(self, name: str = "bench") -> str:
        body = {"name": name, "disk_format": "raw", "container_format": "bare"}
        return self.rest.ok("POST", "/images", body)["id"]

    def upload(self, path: Path) -> tuple[str, float]:
        self.rest.close()
        identity = self.record()
        seconds = curl(*self.headers, "-T", str(path), f"{self.base}/images/{identity}/file")
        # Some servers give a connection up that is idle for as long as a transfer takes.
        self.rest.close()
        status = self.rest.ok("GET", f"/images/{identity}")["status"]
        assert status == "active", f"{self.name}: image is {status} after its upload"
        return identity, seconds

    def download(self, identity: str) -> float:
        return curl(*self.headers, f"{self.base}/images/{identity}/file")

    def transfer(self, path: Path) -> tuple[float, float, float]:
        """Seconds of an upload, of a download right after it, and of one from the disk."""
        identity, up = self.upload(path)
        down = self.download(identity)
        if self.folder:
            forget(self.folder.iterdir())
        from_disk = self.download(identity)
        self.rest.close()
        self.rest.ok("DELETE", f"/images/{identity}")
        return up, down, from_disk

    def list_ms(self, count: int) -> float:
        """Milliseconds of one page with that many images."""
        self.rest.close()
        made = [self.record(f"list-{number}") for number in range(count)]
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            images = self.rest.ok("GET", f"/images?limit={count}")["images"]
            taken.append((time.perf_counter() - began) * 1000)
            assert len(images) == count, f"{self.name} lists {len(images)} of {count} images"
        for identity in made:
            self.rest.ok("DELETE", f"/images/{identity}")
        return statistics.median(taken)


def curl(*arguments: str) -> float:
    """Seconds of one transfer by curl, its output thrown away."""
    began = time.perf_counter()
    command = ["curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", "-H", "Expect:"]
    subprocess.run([*command, *arguments], check=True)
    return time.perf_counter() - began


def forget(files: Iterable[Path]) -> None:
    """Lets the operating system write files to the disk, and forget what is in them."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def random_file(folder: Path, mib: int) -> Path:
    path = folder / "data"
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    return path


def peak_of_uploads(server, service: Service, path: Path, at_once: int) -> float:
    """The largest resident memory in MiB while so many uploads run."""
    peak = server.resident_mib()
    with ThreadPoolExecutor(at_once) as pool:
        clients = [Service(service.name, service.base.removesuffix("/v2"), service.rest.headers["X-Auth-Token"])
                   for _ in range(at_once)]
        running = [pool.submit(client.upload, path) for client in clients]
        while not all(one.done() for one in running):
            peak = max(peak, server.resident_mib())
            time.sleep(0.05)
        for client, one in zip(clients, running):
            client.rest.ok("DELETE", f"/images/{one.result()[0]}")
    return peak


def start_glance(folder: Path) -> Service:
    printed = subprocess.run(
        [str(LAB_GLANCE), "start", str(folder)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return Service("glance", printed.split()[-1], "none", folder / "images")


def stop_glance(folder: Path) -> None:
    subprocess.run([str(LAB_GLANCE), "stop", str(folder)], check=True)


def measure(server, token: str, rounds: int, mib: int, images: int, at_once: int) -> dict[str, dict[str, float]]:
    """All figures, the sides in turn within each round."""
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as name:
        folder = Path(name)
        path = random_file(folder, mib)
        plain = PlainServer(folder)
        sides = [Service("basalt", f"http://127.0.0.1:{server.image_port}", token), start_glance(folder / "glance")]
        try:
            taken = {side.name: [] for side in [*sides, plain]}
            for _ in range(rounds):
                for side in [*sides, plain]:
                    taken[side.name].append(side.transfer(path))
            ways = ["upload of {} MiB, s", "download of {} MiB, s", "download of {} MiB from the disk, s"]
            figures = {
                way.format(mib): {side: statistics.median(one[number] for one in all) for side, all in taken.items()}
                for number, way in enumerate(ways)
            }
            figures |= {
                f"list of {images} images, ms": {side.name: side.list_ms(images) for side in sides},
            }
        finally:
            stop_glance(folder / "glance")
            plain.stop()
        small = random_file(folder, max(mib // 16, 1))
        figures["resident memory before, MiB"] = {"basalt": server.resident_mib()}
        figures[f"resident memory at {at_once} uploads at once, MiB"] = {
            "basalt": peak_of_uploads(server, sides[0], small, at_once)
        }
    return figures
