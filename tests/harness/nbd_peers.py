"""The programs that Basalt's export is measured against, each on a Unix socket of its own."""

import os
import subprocess
import time
from pathlib import Path

from .disk import tool

START_TIMEOUT_S = 20

PACKAGES = {"fio": "fio", "nbdkit": "nbdkit", "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "qemu-nbd": "qemu-utils"}


class Export:
    """A running NBD server; as a context manager it ends with the block."""

    def __init__(self, folder: Path, name: str, command: list[str]):
        self.socket = folder / f"{name}.sock"
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [word.replace("SOCKET", str(self.socket)) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not serve")
            time.sleep(0.01)

    @property
    def address(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    def __enter__(self) -> "Export":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()


def qemu_nbd(folder: Path, disk: Path, form: str = "raw") -> Export:
    """qemu-nbd as a virtual machine would use the file: no page cache, io_uring."""
    return Export(folder, f"qemu-{disk.name}", [
        "qemu-nbd", "--socket=SOCKET", f"--format={form}", "--cache=none", "--aio=io_uring", "--discard=unmap",
        "--persistent", "--shared=16", str(disk),
    ])


def nbdkit_null(folder: Path, size_bytes: int) -> Export:
    """The fastest there is: answers without data."""
    return Export(folder, "nbdkit", ["nbdkit", "-f", "-U", "SOCKET", "null", str(size_bytes)])


def qcow2(path: Path, size_bytes: int, base: Path | None = None, base_form: str = "raw", options: str = "") -> Path:
    """A new qcow2 disk, an overlay where it has a base."""
    backing = ["-b", str(base), "-F", base_form] if base else []
    extra = ["-o", options] if options else []
    path.unlink(missing_ok=True)
    tool("qemu-img", "create", "-q", "-f", "qcow2", *extra, *backing, str(path), *([] if base else [str(size_bytes)]))
    return path


def drop_caches() -> bool:
    """Forgets what the page cache holds, where that is allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
    except OSError:
        return False
    return True
