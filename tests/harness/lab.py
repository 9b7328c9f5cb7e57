"""The real peers of devstack/lab, for suites."""

import subprocess
from pathlib import Path

from . import prepare

KEYSTONE = prepare.ROOT / "devstack" / "lab" / "keystone"


class Keystone:
    """A Keystone of its own, whose catalogue names a server that is still to be started."""

    def __init__(self, folder: Path, volume_port: int, image_port: int):
        self.state = folder / "keystone"
        self.urls = [f"--volume-url=http://127.0.0.1:{volume_port}", f"--image-url=http://127.0.0.1:{image_port}"]

    @property
    def clouds(self) -> Path:
        return self.state / "clouds.yaml"

    @property
    def basalt_conf(self) -> str:
        return (self.state / "basalt.conf").read_text()

    def start(self, token_expiration_s: int = 3600) -> None:
        self._lab("start", *self.urls, f"--token-expiration={token_expiration_s}")

    def stop(self) -> None:
        self._lab("stop")

    def _lab(self, *arguments: str) -> None:
        command = [str(KEYSTONE), *arguments, f"--state={self.state}"]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}")

    def __enter__(self) -> "Keystone":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()
