"""The database server that Basalt's tables lie on: none (SQLite), a PostgreSQL or a MariaDB."""

import os
import subprocess
import tempfile
from pathlib import Path

from . import prepare

LAB = prepare.ROOT / "devstack" / "lab"
KINDS = ["sqlite", "postgresql", "mariadb"]
# Servers that forget in a crash lie in memory where there is a place for it.
MEMORY = Path("/dev/shm")


class DatabaseServer:
    """A lab server of its own; while it is entered, every Basalt that starts uses it."""

    def __init__(self, kind: str, forgetful: bool = False):
        self.kind = kind
        self.forgetful = forgetful
        self.url = ""

    def _lab(self, *arguments: str) -> str:
        command = [str(LAB / self.kind), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1:]

    def start(self) -> None:
        options = ["--forgetful"] if self.forgetful else []
        self.url = self._lab("start", str(self.folder), *options)[0]

    def stop(self, kill: bool = False) -> None:
        self._lab("stop", str(self.folder), *(["--kill"] if kill else []))

    def create(self, name: str) -> str:
        """A new, empty database; returns its address."""
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        if self.kind == "postgresql":
            program = max(Path("/usr/lib/postgresql").glob("*/bin/createdb"))
            subprocess.run([program, "-h", "127.0.0.1", "-p", port, "-U", "basalt", name], check=True)
        else:
            subprocess.run(
                ["mariadb-admin", "--no-defaults", "-h127.0.0.1", f"-P{port}", "-ubasalt", "-pbasalt", "create", name],
                check=True,
            )
        return f"{self.url.rsplit('/', 1)[0]}/{name}"

    def __enter__(self) -> "DatabaseServer":
        if self.kind == "sqlite":
            return self
        place = MEMORY if self.forgetful and MEMORY.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="basalt-database-", dir=place)
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o755)
        self.start()
        os.environ["OS_DATABASE__CONNECTION"] = self.create("basalt")
        return self

    def __exit__(self, *_) -> None:
        if self.kind == "sqlite":
            return
        del os.environ["OS_DATABASE__CONNECTION"]
        self.stop(kill=True)
        self._folder.cleanup()
