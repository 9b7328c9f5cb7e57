"""One of two volume services on the same pools: what a test asks of either."""

import os
import subprocess
from pathlib import Path

from . import prepare
from .ceph import Ceph
from .rest import Rest

LAB = prepare.ROOT / "devstack" / "lab"
FINAL = (
    "available", "error", "error_managing", "error_restoring", "error_deleting", "error_extending", "error_backing-up",
)


class VolumeSide:
    """A volume API, and the host whose pool it has in common with the other side."""

    def __init__(self, rest: Rest, host: str):
        self.rest, self.host = rest, host

    def settled(self, collection: str, identity: str) -> dict:
        key = collection.rstrip("s")
        answer = self.rest.until(
            f"/{collection}/{identity}", lambda answer: answer.body[key]["status"] in FINAL, pause_s=0.05
        )
        assert answer.body[key]["status"] == "available", answer.body
        return answer.body[key]

    def create(self, collection: str, body: dict) -> str:
        key = collection.rstrip("s")
        identity = self.rest.ok("POST", f"/{collection}", {key: body})[key]["id"]
        self.settled(collection, identity)
        return identity

    def delete(self, collection: str, identity: str) -> None:
        key = collection.rstrip("s")
        self.rest.ok("DELETE", f"/{collection}/{identity}")
        answer = self.rest.until(
            f"/{collection}/{identity}",
            lambda answer: answer.status == 404 or answer.body[key]["status"] in FINAL,
            pause_s=0.05,
        )
        assert answer.status == 404, answer.body

    def manage(self, image: str) -> str:
        body = {"host": self.host, "ref": {"source-name": image}, "name": image}
        identity = self.rest.ok("POST", "/manageable_volumes", {"volume": body})["volume"]["id"]
        self.settled("volumes", identity)
        return identity

    def manage_snapshot(self, volume: str, name: str) -> str:
        body = {"volume_id": volume, "ref": {"source-name": name}, "name": name}
        identity = self.rest.ok("POST", "/manageable_snapshots", {"snapshot": body})["snapshot"]["id"]
        self.settled("snapshots", identity)
        return identity

    def unmanage(self, collection: str, identity: str) -> None:
        self.rest.ok("POST", f"/{collection}/{identity}/action", {"os-unmanage": {}})
        self.rest.until(f"/{collection}/{identity}", lambda answer: answer.status == 404, pause_s=0.05)

    def back_up(self, volume: str, incremental: bool) -> str:
        backup = self.create("backups", {"volume_id": volume, "incremental": incremental})
        self.settled("volumes", volume)
        return backup

    def export_record(self, backup: str) -> dict:
        return self.rest.ok("GET", f"/backups/{backup}/export_record")["backup-record"]

    def import_record(self, record: dict) -> str:
        backup = self.rest.ok("POST", "/backups/import_record", {"backup-record": record})["backup"]["id"]
        self.settled("backups", backup)
        return backup

    def restore(self, backup: str) -> str:
        """To a new volume."""
        restored = self.rest.ok("POST", f"/backups/{backup}/restore", {"restore": {}})["restore"]["volume_id"]
        self.settled("backups", backup)
        self.settled("volumes", restored)
        return restored


class RestOverUwsgi(Rest):
    """A connection for each request: uWSGI closes those that rest."""

    def call(self, *arguments, **options):
        self.close()
        return super().call(*arguments, **options)


class PythonServices:
    """Cinder and Glance with their broker, on the pools of a cluster."""

    def __init__(self, ceph: Ceph, folder: Path, database_url: str | None = None):
        self.ceph, self.folder, self.database_url = ceph, folder, database_url
        self.started: list[str] = []

    def _start(self, name: str, *options: str) -> str:
        self.started.append(name)
        command = [str(LAB / name), "start", str(self.folder / name), *options]
        # Basalt's options in the environment are options of theirs, too.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}"
        return result.stdout.split()[-1]

    def __enter__(self) -> "PythonServices":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        conf = str(self.ceph.conf)
        broker = self._start("rabbitmq")
        image_url = self._start("glance", "--ceph-conf", conf)
        options = ["--ceph-conf", conf, "--transport-url", broker, "--image-url", image_url]
        if self.database_url:
            options += ["--database-url", self.database_url]
        volume_url = self._start("cinder", *options)
        # Whoever is nobody is an administrator.
        self.volume_url = f"{volume_url}/1ab"
        rest = RestOverUwsgi(self.volume_url, "1ab:1ab", {"OpenStack-API-Version": "volume 3.70"})
        self.volumes = VolumeSide(rest, "cinder@rbd#rbd")
        self.images = RestOverUwsgi(f"{image_url}/v2", "lab", {})

    def processes(self) -> list[int]:
        """Cinder's and Glance's, without the broker."""
        files = [*(self.folder / "cinder").glob("*.pid"), self.folder / "glance" / "pid"]
        return [int(file.read_text()) for file in files]

    def __exit__(self, *_) -> None:
        for name in reversed(self.started):
            subprocess.run([str(LAB / name), "stop", str(self.folder / name)], capture_output=True)
