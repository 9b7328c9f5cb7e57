"""A lab cluster, and one Basalt process whose volumes, images and backups lie in it."""

import json
import subprocess
import tempfile
from pathlib import Path

from . import prepare
from .server import Basalt

LAB = prepare.ROOT / "devstack" / "lab" / "ceph"
POOLS = ["volumes", "images", "images-staging", "backups", "vms"]
CONFIG = """[DEFAULT]
enabled_backends = rbd
backup_ceph_conf = {conf}
backup_ceph_user = cinder-backup
{defaults}
[rbd]
volume_driver = cinder.volume.drivers.rbd.RBDDriver
rbd_ceph_conf = {conf}
rbd_user = cinder
{backend}
[glance_store]
rbd_store_ceph_conf = {conf}
rbd_store_user = glance
"""


class Ceph:
    """A cluster of its own, removed at the end."""

    def __init__(self, osds: int = 1, osd_options: list[str] | None = None, pools: list[str] = POOLS):
        self.osds = osds
        self.osd_options = osd_options or []
        self.pools = pools
        self._folder = tempfile.TemporaryDirectory(prefix="basalt-ceph-")
        self.folder = Path(self._folder.name)
        self.conf = self.folder / "ceph.conf"

    def lab(self, action: str, *options: str) -> None:
        subprocess.run([LAB, action, self.folder, *options], check=True, stdout=subprocess.PIPE)

    def start(self) -> None:
        options = [word for option in self.osd_options for word in ("--osd-option", option)]
        self.lab("start", "--osds", str(self.osds), "--pools", ",".join(self.pools), *options)

    def processes(self) -> dict[str, int]:
        """The daemons' process ids by name."""
        answer = subprocess.run([LAB, "status", self.folder], stdout=subprocess.PIPE, text=True)
        return json.loads(answer.stdout)["processes"]

    def rbd(self, *arguments: str):
        """What the rbd command answers, as JSON."""
        command = ["rbd", "-c", str(self.conf), *arguments, "--format", "json"]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode:
            raise AssertionError(f"{' '.join(command)}: {answer.stderr}")
        return json.loads(answer.stdout or "null")

    def run(self, *command: str) -> str:
        """A command of Ceph's that needs its configuration."""
        done = subprocess.run([command[0], "-c", str(self.conf), *command[1:]], capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def small_objects(self, pool: str) -> list[str]:
        """Objects beside the images' own."""
        names = self.run("rados", "-p", pool, "ls").split()
        return [name for name in names if not name.startswith(("rbd_", "journal"))]

    def parents(self, spec: str) -> list[str]:
        """The snapshots that an image hangs on, its own parent first."""
        found: list[str] = []
        while parent := self.rbd("info", spec).get("parent"):
            spec = f"{parent['pool']}/{parent['image']}"
            found.append(f"{spec}@{parent['snapshot']}")
        return found

    def images(self) -> list[dict]:
        """Every image of every pool, as `basalt store du --json` says it."""
        found = []
        for pool in POOLS:
            for image in self.rbd("ls", pool):
                spec = f"{pool}/{image}"
                assert self.is_whole(spec), f"a part of image {spec} is left:\n{self.objects(pool)}"
                snapshots = self.rbd("snap", "ls", spec)
                size = self.rbd("info", spec)["size"]
                found.append({"pool": pool, "image": image, "size_bytes": size, "snapshots": snapshots})
        return found

    def is_whole(self, spec: str) -> bool:
        return subprocess.run(["rbd", "-c", str(self.conf), "info", spec], capture_output=True).returncode == 0

    def objects(self, pool: str) -> str:
        """Names of a pool's objects, and what its directory of images says."""
        listed = self.run("rados", "-p", pool, "ls")
        return listed + self.run("rados", "-p", pool, "listomapvals", "rbd_directory")

    def children(self, snapshot: str) -> list[str]:
        """The images that hang on a snapshot, those in the trash, too."""
        return [f"{child['pool']}/{child['image']}" for child in self.rbd("children", "--all", snapshot)]

    def trash(self) -> list[str]:
        return [f"{pool}/{image['name']}" for pool in POOLS for image in self.rbd("trash", "ls", pool)]

    def used_bytes(self) -> int:
        """Bytes of the objects that images and snapshots have, a clone without its parent's."""
        total = 0
        for pool in POOLS:
            total += sum(image["used_size"] for image in self.rbd("du", "-p", pool)["images"])
        return total

    def __enter__(self) -> "Ceph":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.lab("stop")
        self._folder.cleanup()


class BasaltOnCeph(Basalt):
    """The engine's part of a server; everything else is as on the embedded store."""

    images_wait_for_clones = True

    def __init__(self, ceph: Ceph, defaults: str = "", backend: str = ""):
        prepare.qemu_on_rbd()
        super().__init__(config=CONFIG.format(conf=ceph.conf, defaults=defaults, backend=backend))
        self.ceph = ceph

    def store_usage(self) -> dict:
        """What the pools hold; without any image there must be nothing else either."""
        images = self.ceph.images()
        assert not self.ceph.trash(), self.ceph.trash()
        objects = [f"{pool}/{name}" for pool in POOLS for name in self.ceph.small_objects(pool)]
        assert images or not objects, objects
        return {"used_bytes": self.ceph.used_bytes(), "images": images}

    def store_bytes(self) -> int:
        return self.ceph.used_bytes()

    def check_store(self) -> None:
        """The cluster looks after itself; the pool holds what the rows say."""
        self.operator("store", "check", "--backend", "rbd")

    def audit_links(self, held: list[dict]) -> None:
        """Clones hang on snapshots that are there, and snapshots for clones have the one they were made for."""
        names = {f"{image['pool']}/{image['image']}" for image in held}
        for image in held:
            spec = f"{image['pool']}/{image['image']}"
            for snapshot in image["snapshots"]:
                children = self.ceph.children(f"{spec}@{snapshot}")
                assert set(children) <= names, f"{spec}@{snapshot} has children that are no images: {children}"
                if snapshot.endswith(".clone_snap"):
                    clone = snapshot.removesuffix(".clone_snap")
                    expected = [[f"volumes/{clone}"], [f"volumes/{clone}.deleted"]]
                    assert children in expected, f"{spec}@{snapshot} has the children {children}"
        self.check_store()

    def export(self, name: str) -> str:
        return f"rbd:volumes/{name}:id=cinder:conf={self.ceph.conf}"
