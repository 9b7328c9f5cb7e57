"""The figures of volumes on a cluster: Basalt, Cinder's services, and the same calls of librbd alone."""

import json
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .ceph import Ceph
from .rest import Rest

LIBRBD = """
import json, sys, time, rados, rbd
conf, rounds = sys.argv[1], int(sys.argv[2])
client = rados.Rados(rados_id='cinder', conffile=conf)
client.connect()
pool = client.open_ioctx('volumes')
GIB = 1 << 30
tool = rbd.RBD()
figures = {'empty': [], 'snapshot': [], 'from snapshot': [], 'from volume': []}
def timed(kind, call):
    began = time.perf_counter()
    call()
    figures[kind].append((time.perf_counter() - began) * 1000)
def protected(image, name):
    with rbd.Image(pool, image) as one:
        one.create_snap(name)
        one.protect_snap(name)
def clone(image, snapshot, name):
    tool.clone(pool, image, snapshot, pool, name, features=61)
def of_volume(name):
    protected('source', name)
    clone('source', name, name)
def forget(image, snapshots):
    with rbd.Image(pool, image) as one:
        for name in snapshots:
            one.unprotect_snap(name)
            one.remove_snap(name)
tool.create(pool, 'source', GIB, features=61, old_format=False)
protected('source', 'kept')
for number in range(rounds):
    timed('empty', lambda: tool.create(pool, 'empty', GIB, features=61, old_format=False))
    timed('snapshot', lambda: protected('source', 'snap'))
    timed('from snapshot', lambda: clone('source', 'kept', 'clone'))
    timed('from volume', lambda: of_volume('deep'))
    for name in ('empty', 'clone', 'deep'):
        tool.remove(pool, name)
    forget('source', ['snap', 'deep'])
forget('source', ['kept'])
tool.remove(pool, 'source')
print(json.dumps(figures))
"""


@dataclass
class Side:
    """One service under measurement."""

    name: str
    url: str
    token: str
    version: str
    source: str = ""
    snapshot: str = ""
    local: threading.local = field(default_factory=threading.local)

    def rest(self) -> Rest:
        """A connection of this thread's own."""
        if not hasattr(self.local, "rest"):
            self.local.rest = Rest(self.url, self.token, {"OpenStack-API-Version": f"volume {self.version}"})
        return self.local.rest

    def create(self, collection: str, body: dict) -> tuple[str, float]:
        """Creates and waits for `available`; returns the id and the milliseconds."""
        key = collection.rstrip("s")
        began = time.perf_counter()
        identity = self.rest().ok("POST", f"/{collection}", {key: {"name": "bench", **body}})[key]["id"]
        answer = self.rest().until(
            f"/{collection}/{identity}", lambda answer: answer.body[key]["status"] != "creating", pause_s=0.005,
        )
        taken = (time.perf_counter() - began) * 1000
        assert answer.body[key]["status"] == "available", answer.body
        return identity, taken

    def delete(self, collection: str, identity: str) -> float:
        began = time.perf_counter()
        self.rest().ok("DELETE", f"/{collection}/{identity}")
        self.rest().until(f"/{collection}/{identity}", lambda answer: answer.status == 404, pause_s=0.005)
        return (time.perf_counter() - began) * 1000

    def prepare(self) -> None:
        self.source, _ = self.create("volumes", {"size": 1})
        self.snapshot, _ = self.create("snapshots", {"volume_id": self.source})

    def clean_up(self) -> None:
        self.delete("snapshots", self.snapshot)
        self.delete("volumes", self.source)

    def kinds(self) -> dict[str, tuple[str, dict]]:
        return {
            "empty": ("volumes", {"size": 1}),
            "snapshot": ("snapshots", {"volume_id": self.source}),
            "from snapshot": ("volumes", {"size": 1, "snapshot_id": self.snapshot}),
            "from volume": ("volumes", {"size": 1, "source_volid": self.source}),
        }


def measure(ceph: Ceph, sides: list[Side], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of every figure; the sides take turns, so that the cluster's moods are shared."""
    samples: dict[str, dict[str, list[float]]] = {}

    def note(figure: str, name: str, values: list[float]) -> None:
        samples.setdefault(figure, {}).setdefault(name, []).extend(values)

    for side in sides:
        side.prepare()
    turns = max(1, rounds // 5)
    for _ in range(turns):
        for kind, values in librbd(ceph, 5).items():
            note(f"{kind}, one at a time, ms", "librbd", values)
        for at_once in (1, 8):
            for side in sides:
                for kind, (collection, body) in side.kinds().items():
                    words = "one at a time" if at_once == 1 else f"{at_once} at once"
                    with ThreadPoolExecutor(at_once) as pool:
                        made = list(pool.map(lambda _: side.create(collection, body), range(max(5, at_once * 2))))
                        note(f"{kind}, {words}, ms", side.name, [taken for _, taken in made])
                        gone = pool.map(lambda one: side.delete(collection, one[0]), made)
                        note(f"delete {kind}, {words}, ms", side.name, list(gone))
    for side in sides:
        side.clean_up()
    return {
        figure: {name: statistics.median(values) for name, values in by_side.items()}
        for figure, by_side in samples.items()
    }


def librbd(ceph: Ceph, rounds: int) -> dict[str, list[float]]:
    """The calls that a driver makes, by a client that stays connected."""
    command = ["/usr/bin/python3", "-c", LIBRBD, str(ceph.conf), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def resident_mib(pids: list[int]) -> float:
    """What the processes and their children hold, shared pages once."""
    family, parents = set(pids), {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rsplit(")", 1)[1].split()
            parents[int(path.parent.name)] = int(words[1])
        except (OSError, IndexError):
            continue
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        grown, family = bool(more), family | more
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
