"""The data-path figures: Basalt's NBD export and its peers, one after the other in each round.

A row is a figure, Basalt's value, and what it is compared with. Everything is measured by the
same fio, on the same file system, in the same run; a ratio is the median of the rounds' values.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import fio, nbd_peers, prepare
from .disk import GIB, MIB, tool
from .fio import Job
from .nbd_peers import qcow2, qemu_nbd
from .rest import Cloud
from .server import Basalt

CONFIG = "[DEFAULT]\nquota_volumes = -1\nquota_snapshots = -1\nquota_gigabytes = -1\n[basalt]\nrbd_max_clone_depth = 64\n"

SEQUENTIAL_READ = Job("read", "1m", 16)
RAW = "qemu-nbd raw"

# figure, job, at least this times qemu-nbd on a raw file; in this order on the same volumes: first
# what needs them written in order, then what scatters their blocks
WRITTEN_IN_ORDER = [
    ("1 MiB sequential read, written in order", SEQUENTIAL_READ, 0.95),
    ("64k random read QD16, written in order", Job("randread", "64k", 16), 1.0),
    ("1 MiB sequential write QD16", Job("write", "1m", 16), 1.0),
    ("64k random write QD16", Job("randwrite", "64k", 16), 1.0),
]
STEADY = [
    ("4k random write QD32", Job("randwrite"), 1.7),
    ("4k random write QD32, flush every 32", Job("randwrite", flush_every=32), 1.6),
    ("4k random write QD1", Job("randwrite", depth=1), 1.2),
    ("4k random write QD1, flush each", Job("randwrite", depth=1, flush_every=1), 1.1),
    ("4k random read QD32", Job("randread"), 1.0),
    ("4k random read QD1", Job("randread", depth=1), 1.2),
]
# In this order; `tests/bench data-path --only` takes some of them.
GROUPS = ["steady", "scattered", "limits", "first_touch", "clones", "deletes", "calls", "big"]
SCATTERED = [
    ("1 MiB sequential read after a random overwrite", SEQUENTIAL_READ, 0.55),
    ("64k random read QD16 after a random overwrite", Job("randread", "64k", 16), None),
]
DEFRAGMENTED = ("1 MiB sequential read after defragmentation", SEQUENTIAL_READ, 0.85)


@dataclass
class Row:
    """`at_least` is the wanted ratio; with `smaller`, less is better and the ratio is turned round."""

    figure: str
    against: str = ""
    at_least: float | None = None
    unit: str = "IOPS"
    smaller: bool = False
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def ratio(self) -> float | None:
        if not self.ours or not self.theirs:
            return None
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        if self.smaller:
            ours, theirs = theirs, ours
        return ours / theirs if theirs else None


def rate(job: Job, result: fio.Result) -> float:
    return result.mib_s if job.block == "1m" else result.iops


class DataPath:
    """One run: a server, its volumes, and the peers' files beside them."""

    def __init__(self, server: Basalt, cloud: Cloud, rounds: int, seconds: float, size_gib: int, short: bool):
        self.server, self.rest = server, cloud.volume()
        self.rounds, self.seconds, self.short = rounds, seconds, short
        self.size_gib = size_gib
        # What of the volumes is used.
        self.size = GIB // 4 if short else size_gib * GIB
        # The data of an incremental diff: 16,384 blocks of 4 KiB.
        self.diff = (16 if short else 64) * MIB
        self.folder = server.folder / "peers"
        self.folder.mkdir()
        # A volume with data everywhere, and a raw file as large.
        self.subject = ""
        self.raw = self.folder / "disk.raw"
        self.rows: list[Row] = []
        # How long qemu-img takes to map an overlay.
        self.map_ms = 0.0
        self.notes: list[str] = []

    # Resources --------------------------------------------------------------------------

    def create(self, collection: str, **body) -> str:
        key = collection.rstrip("s")
        # While fio ran, the server may have closed a connection that was kept.
        self.rest.close()
        identity = self.rest.ok("POST", f"/{collection}", {key: {"name": "bench", **body}})[key]["id"]
        answer = self.rest.until(
            f"/{collection}/{identity}", lambda answer: answer.body[key]["status"] not in ("creating", "downloading")
        )
        assert answer.body[key]["status"] == "available", answer.body
        return identity

    def delete(self, collection: str, identity: str) -> None:
        self.rest.close()
        self.rest.ok("DELETE", f"/{collection}/{identity}")
        self.rest.until(f"/{collection}/{identity}", lambda answer: answer.status == 404)

    def address(self, volume: str) -> str:
        return self.server.export(f"volume-{volume}")

    def fill(self, address: str, size: int | None = None) -> None:
        """Data everywhere, in order."""
        size = size or self.size
        fio.run(address, Job("write", "1m", 16, bytes=size), size)

    def volume(self, filled: bool = True) -> str:
        identity = self.create("volumes", size=self.size_gib)
        if filled:
            self.fill(self.address(identity))
        return identity

    # Figures ----------------------------------------------------------------------------

    def run(self, only: list[str]) -> None:
        groups = [name for name in GROUPS if not only or name in only]
        if groups != ["big"]:
            self.say("filling the volumes")
            self.subject = self.volume()
            tool("truncate", "-s", str(self.size), str(self.raw))
            with qemu_nbd(self.folder, self.raw) as peer:
                self.fill(peer.address)
        for name in groups:
            getattr(self, name)()
        self.remarks()

    def steady(self) -> None:
        with qemu_nbd(self.folder, self.raw) as peer:
            sides = (self.address(self.subject), peer.address)
            for figure in WRITTEN_IN_ORDER + STEADY:
                self.compare(figure, sides)

    def scattered(self) -> None:
        with qemu_nbd(self.folder, self.raw) as peer:
            sides = (self.address(self.subject), peer.address)
            for side in sides:
                fio.run(side, Job("randwrite", bytes=self.size), self.size)
            for figure in SCATTERED:
                self.compare(figure, sides)
            self.say("defragmentation")
            self.server.operator("store", "defragment", f"volumes/volume-{self.subject}")
            self.compare(DEFRAGMENTED, sides)

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def add(self, *rows: Row) -> None:
        """Notes figures, and shows them: a run that is cut off has said what it found."""
        self.rows += rows
        for row in rows:
            ours, theirs = ([round(value, 1) for value in side] for side in (row.ours, row.theirs))
            against = f"; {row.against} {theirs}" if theirs else ""
            ratio = row.ratio()
            self.say(f"  {row.figure}: {ours}{against}{'' if ratio is None else f'; {ratio:.2f}'}")

    def compare(self, figure: tuple[str, Job, float | None], sides: tuple[str, str]) -> None:
        name, job, at_least = figure
        self.say(name)
        row = Row(name, RAW, at_least, "MiB/s" if job.block == "1m" else "IOPS")
        for number in range(self.rounds):
            # Whoever goes first finds the disk as the other left it: take turns.
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for side in order:
                nbd_peers.drop_caches()
                result = fio.run(sides[side], job, self.size, self.seconds, seed=number + 1)
                (row.ours, row.theirs)[side].append(rate(job, result))
        self.add(row)

    def limits(self) -> None:
        """What the disk and the protocol give at best; Basalt's own value stands above."""
        self.say("physical limits")
        # The third is what reading in order comes to where each block lies somewhere else.
        for name, job in [("4k random write QD32", Job("randwrite")), ("4k random read QD32", Job("randread")),
                          ("4k random read QD256", Job("randread", depth=256)), ("1 MiB sequential read QD16", SEQUENTIAL_READ)]:
            row = Row(f"limit: {name}", "the file, O_DIRECT", unit="MiB/s" if job.block == "1m" else "IOPS")
            row.theirs = [rate(job, fio.run(str(self.raw), job, self.size, self.seconds, seed=n)) for n in range(self.rounds)]
            self.add(row)
        with nbd_peers.nbdkit_null(self.folder, self.size) as null, self.memory_export() as memory:
            for name, job in [("4k random write QD32", Job("randwrite")), ("4k random read QD32", Job("randread")),
                              ("4k random read QD1", Job("randread", depth=1))]:
                row = Row(f"protocol, no disk: {name}", "nbdkit null")
                for number in range(self.rounds):
                    row.ours.append(rate(job, fio.run(f"nbd+unix:///volume-1?socket={memory.socket}", job, 256 * MIB, self.seconds, seed=number)))
                    row.theirs.append(rate(job, fio.run(null.address, job, 256 * MIB, self.seconds, seed=number)))
                self.add(row)

    def memory_export(self) -> nbd_peers.Export:
        return nbd_peers.Export(self.folder, "memory", [str(prepare.example("nbd_memory")), "SOCKET", "256"])

    def first_touch(self) -> None:
        """The same number of writes, once on blocks of one's own, once on blocks that a snapshot shares."""
        self.say("first write after a snapshot")
        job = Job("randwrite", bytes=self.diff)
        against = [("own steady state", 0.7), ("qcow2 overlay", 6.0), ("qcow2 overlay, subclusters", 2.5), ("qcow2 internal snapshot", 25.0)]
        rows = [Row("first 4k write after a snapshot QD32", name, at_least) for name, at_least in against]
        clone_row = Row("first 4k write after a clone QD32", "own steady state", 0.7)
        internal = qcow2(self.folder / "internal.qcow2", self.size)
        with qemu_nbd(self.folder, internal, "qcow2") as peer:
            self.fill(peer.address)
        for number in range(self.rounds):
            address = self.address(self.subject)
            steady = fio.run(address, job, self.size, seed=100 + number).iops
            rows[0].theirs.append(steady)
            snapshot = self.create("snapshots", volume_id=self.subject)
            touched = fio.run(address, job, self.size, seed=200 + number).iops
            for row in rows:
                row.ours.append(touched)
            clone = self.create("volumes", size=self.size_gib, snapshot_id=snapshot)
            clone_row.ours.append(fio.run(self.address(clone), job, self.size, seed=200 + number).iops)
            clone_row.theirs.append(steady)
            self.delete("volumes", clone)
            self.delete("snapshots", snapshot)
            overlays = [(1, ""), (2, "extended_l2=on,cluster_size=128k")]
            for place, options in overlays:
                disk = qcow2(self.folder / "overlay.qcow2", self.size, self.raw, options=options)
                with qemu_nbd(self.folder, disk, "qcow2") as peer:
                    rows[place].theirs.append(fio.run(peer.address, job, self.size, seed=200 + number).iops)
            tool("qemu-img", "snapshot", "-c", f"s{number}", str(internal))
            with qemu_nbd(self.folder, internal, "qcow2") as peer:
                slow = Job("randwrite", bytes=self.diff // 8)
                rows[3].theirs.append(fio.run(peer.address, slow, self.size, seed=200 + number).iops)
            tool("qemu-img", "snapshot", "-d", f"s{number}", str(internal))
        self.add(*rows, clone_row)
        internal.unlink()

    def clones(self) -> None:
        """Reads through a chain, each of whose links has data of its own."""
        depths = (5, 10) if self.short else (5, 50)
        self.say(f"reads through {depths[0]} and {depths[1]} clones")
        chain = [self.subject]
        for number in range(depths[1]):
            chain.append(self.create("volumes", size=self.size_gib, source_volid=chain[-1]))
            fio.run(self.address(chain[-1]), Job("randwrite", bytes=4 * MIB), self.size, seed=number)
        job = Job("randread")
        rows = [Row(f"4k random read QD32 through {depth} clones", "depth 0", 0.97) for depth in depths]
        for number in range(self.rounds):
            found = {}
            # Whoever goes first finds the machine as the others left it: take turns.
            order = [0, *depths] if number % 2 == 0 else [*reversed(depths), 0]
            for depth in order:
                nbd_peers.drop_caches()
                found[depth] = fio.run(self.address(chain[depth]), job, self.size, self.seconds, seed=number + 1).iops
            for row, depth in zip(rows, depths):
                row.ours.append(found[depth])
                row.theirs.append(found[0])
        self.add(*rows)
        for identity in reversed(chain[1:]):
            self.delete("volumes", identity)

    def deletes(self) -> None:
        """The time that a client waits for a delete, and what others feel meanwhile."""
        self.say("delete of a full volume")
        foreground = self.volume()
        doomed = self.volume()
        seconds = max(self.seconds, 2)

        def p99_us() -> float:
            return fio.run(self.address(foreground), Job("randwrite", depth=4), self.size, seconds).p99_us

        row = Row("foreground p99 while a full volume is deleted", "before", 0.5, "µs", smaller=True, theirs=[p99_us()])
        gone = Row(f"delete of {self.size // MIB} MiB, to 404", unit="ms", smaller=True)
        self.rest.close()
        with ThreadPoolExecutor(1) as other:
            meanwhile = other.submit(p99_us)
            time.sleep(seconds / 4)
            began = time.monotonic()
            self.rest.ok("DELETE", f"/volumes/{doomed}")
            self.rest.until(f"/volumes/{doomed}", lambda answer: answer.status == 404)
            gone.ours.append((time.monotonic() - began) * 1000)
            row.ours.append(meanwhile.result())
        self.add(row, gone)
        self.delete("volumes", foreground)

    def calls(self) -> None:
        """Space, flatten, diff and export: the store's calls without a service around them."""
        self.say("space, flatten, diff, export")
        snapshot = self.create("snapshots", volume_id=self.subject)
        used_before = self.server_usage()
        fio.run(self.address(self.subject), Job("randwrite", bytes=self.diff), self.size, seed=7)
        self.add(Row(f"space of {self.diff // MIB} MiB in 4k blocks", "written MiB × 1.3 + 64", 1.0, "MiB", smaller=True,
                             ours=[(self.server_usage() - used_before) / MIB], theirs=[self.diff / MIB * 1.3 + 64]))
        self.server.stop()
        self.qemu_calls(self.call_times(snapshot))

    def call_times(self, snapshot: str) -> dict[str, float]:
        command = [str(prepare.example("store_calls")), str(self.server.data / "store"),
                   f"volumes/volume-{self.subject}@snapshot-{snapshot}", str(self.rounds), str(self.folder / "exported.diff")]
        return figures(*command)

    def qemu_calls(self, ours: dict[str, float]) -> None:
        """The like of them with qemu-img, on an overlay of as many random blocks."""
        overlay = qcow2(self.folder / "diff.qcow2", self.size, self.raw)
        with qemu_nbd(self.folder, overlay, "qcow2") as peer:
            fio.run(peer.address, Job("randwrite", bytes=self.diff), self.size, seed=7)
        copied = self.folder / "copied.qcow2"
        rows = [
            (Row(f"diff of {self.diff // MIB} MiB in {self.size // MIB} MiB full", "qemu-img map", 3.0, "ms", True), "diff_ms",
             ["qemu-img", "map", "--output=json", str(overlay)]),
            (Row("export of that diff", "qemu-img convert -B", 4.0, "ms", True), "export_ms",
             ["qemu-img", "convert", "-t", "writeback", "-O", "qcow2", "-F", "raw", "-B", str(self.raw), str(overlay), str(copied)]),
        ]
        for row, call, command in rows:
            row.ours.append(ours[call])
            for _ in range(self.rounds):
                copied.unlink(missing_ok=True)
                if call == "export_ms":
                    nbd_peers.drop_caches()
                began = time.monotonic()
                tool(*command)
                row.theirs.append((time.monotonic() - began) * 1000)
            self.add(row)
        self.map_ms = statistics.median(rows[0][0].theirs)
        self.flatten_row(ours)

    def flatten_row(self, ours: dict[str, float]) -> None:
        base, child = self.folder / "base.raw", self.folder / "child.qcow2"
        size = GIB if not self.short else GIB // 4
        tool("truncate", "-s", str(size), str(base))
        with qemu_nbd(self.folder, base) as peer:
            self.fill(peer.address, size)
        qcow2(child, size, base)
        began = time.monotonic()
        tool("qemu-img", "rebase", "-b", "", str(child))
        taken = (time.monotonic() - began) * 1000
        self.add(Row(f"flatten of a clone ({self.size // MIB} MiB; rebase of {size // MIB} MiB)", "qemu-img rebase", 100.0, "ms", True,
                             [ours["flatten_ms"]], [taken]))

    def server_usage(self) -> int:
        """Bytes that the store takes on the file system."""
        return sum(path.stat().st_blocks * 512 for path in (self.server.data / "store").rglob("*") if path.is_file())

    def big(self) -> None:
        """Images beyond this disk: real maps over a device that does not keep the data."""
        wide, full, images, snapshots = (64, 8, 100, 1000) if self.short else (1024, 100, 1000, 100_000)
        self.say(f"{wide} GiB and {full} GiB with data in every block, {images} images, {snapshots} snapshots")
        program = str(prepare.example("big_store", "eliding-disk"))
        store = self.folder / "big"
        made = figures(program, "make", str(store), str(wide), str(full), str(images), str(snapshots))
        ours = figures(program, "measure", str(store), str(max(self.rounds, 5)))
        shutil.rmtree(store)

        def row(figure: str, call: str, against: str, theirs: float, at_least: float | None, unit: str = "ms") -> None:
            self.add(Row(figure, against, at_least, unit, True, [ours[call]], [theirs] if theirs else []))

        for call in ("snapshot", "clone"):
            row(f"{call} of {wide} GiB", f"{call}_wide_ms", "2 GiB image", ours[f"{call}_small_ms"], 0.5)
            row(f"{call} of {wide} GiB", f"{call}_wide_ms", "2 ms", 2.0, 1.0)
        row(f"diff of 64 MiB in {full} GiB full", "diff_ms", f"qemu-img map, {self.size // MIB} MiB", self.map_ms, 3.0)
        row(f"delete of {full} GiB", "delete_ms", "2 ms", 2.0, 1.0)
        row(f"4k write p99 while {full} GiB are deleted", "write_p99_during_us", "before", ours["write_p99_before_us"], 0.5, "µs")
        row(f"start after a crash, {wide + full} GiB mapped", "open_after_crash_ms", "5 s", 5000.0, 1.0)
        row(f"{images} images opened, {snapshots} snapshots", "open_images_ms", "", 0.0, None)
        row(f"one more snapshot among {snapshots}", "snapshot_among_all_ms", "2 ms", 2.0, None)
        row(f"resident memory, {wide + full} GiB mapped", "resident_mib", "", 0.0, None, "MiB")
        self.notes.append("big store, all figures: " + json.dumps(made | ours))

    def remarks(self) -> None:
        self.notes += [
            "the figures of images beyond the disk are of a real map, log and checkpoints over a device that does not keep the data (example big_store)",
            "snapshot, clone, flatten, diff, export and delete are the store's calls, timed without HTTP and journal (tests/bench control-plane has those)",
            "an export, ours and qemu-img's (-t writeback), is durable when its time ends; what it reads is not in the page cache",
            "space is what the file system holds for the store, preallocation included",
        ]
        if not nbd_peers.drop_caches():
            self.notes.append("the page cache could not be dropped before reads")


def figures(*command: str) -> dict[str, float]:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr}")
    return json.loads(result.stdout)


def measure(folder: Path | None, rounds: int, seconds: float, size_gib: int, short: bool, only: list[str]) -> tuple[list[Row], list[str]]:
    """Runs everything on a server of its own, in `folder` or the system's temporary one."""
    with Basalt(folder=folder, config=CONFIG) as server:
        server.start()
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(server.data / "clouds.yaml")
        run = DataPath(server, Cloud("basalt"), rounds, 0.5 if short else seconds, 1 if short else size_gib, short)
        try:
            run.run(only)
        finally:
            shutil.rmtree(run.folder, ignore_errors=True)
        return run.rows, run.notes


def print_rows(rows: list[Row], notes: list[str]) -> int:
    """The table; returns how many wanted ratios were missed."""
    width = max(len(row.figure) for row in rows)
    other = max(len(row.against) for row in rows)
    print(f"{'':{width}}  {'Basalt':>10}  {'against':<{other}}  {'its':>10}  {'unit':<6}  {'ratio':>7}  {'wanted':>7}")
    missed = 0
    for row in rows:
        ours, theirs = (f"{statistics.median(side):.1f}" if side else "-" for side in (row.ours, row.theirs))
        ratio = row.ratio()
        short = ratio is not None and row.at_least is not None and ratio < row.at_least
        missed += short
        shown = "-" if ratio is None else f"{ratio:.2f}"
        wanted = "-" if row.at_least is None else f"{row.at_least:.2f}"
        print(f"{row.figure:{width}}  {ours:>10}  {row.against:<{other}}  {theirs:>10}  {row.unit:<6}  {shown:>7}  {wanted:>7}{'  missed' if short else ''}")
    for note in notes:
        print(f"* {note}")
    return missed
