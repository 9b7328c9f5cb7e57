"""Disks whose every byte is known: local raw files that mirror what a volume must hold."""

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB


def tool(*command: str) -> str:
    """Runs a tool of the operating system; its failure is the test's."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


class Disk:
    """A sparse local raw file that says what a volume or an image must contain."""

    def __init__(self, path: Path, size_bytes: int | None = None):
        self.path = path
        if size_bytes is not None:
            with path.open("wb") as file:
                file.truncate(size_bytes)

    def copy(self, path: Path, size_bytes: int | None = None) -> "Disk":
        """What a snapshot, clone or backup of this disk must contain; larger where asked."""
        tool("cp", "--sparse=always", str(self.path), str(path))
        copied = Disk(path)
        if size_bytes is not None:
            copied.grow(size_bytes)
        return copied

    def grow(self, size_bytes: int) -> None:
        os.truncate(self.path, size_bytes)

    def size(self) -> int:
        return self.path.stat().st_size

    def change(self, address: str, generator: random.Random, pieces: int, piece_bytes: int = 256 * 1024) -> None:
        """Writes random data at random places of the export and of this file alike."""
        commands = []
        for _ in range(pieces):
            offset = generator.randrange(0, self.size() - piece_bytes) // 512 * 512
            pattern = generator.randrange(1, 256)
            commands += ["-c", f"write -q -P {pattern} {offset} {piece_bytes}"]
            with self.path.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([pattern]) * piece_bytes)
        tool("qemu-io", "-f", "raw", *commands, "-c", "flush", address)

    def must_equal(self, address: str) -> None:
        """Compares every byte, and the size, with what the export serves."""
        shown = tool("qemu-img", "info", "--output=json", "-f", "raw", address)
        size = json.loads(shown)["virtual-size"]
        assert size == self.size(), f"{address} has {size} bytes, expected {self.size()}"
        tool("qemu-img", "compare", "-f", "raw", "-F", "raw", str(self.path), address)

    def md5(self) -> str:
        digest = hashlib.md5()
        with self.path.open("rb") as file:
            while piece := file.read(4 * MIB):
                digest.update(piece)
        return digest.hexdigest()


def file_system(folder: Path, size_bytes: int, generator: random.Random) -> tuple[Disk, dict[str, str]]:
    """A raw disk with ext4 on it; returns it and the SHA-256 of each file in it.

    Half of the files are random bytes, half are text that compresses well.
    """
    content = folder / "content"
    content.mkdir()
    sums = {}
    budget = size_bytes * 2 // 3
    while budget > 0:
        length = min(budget, generator.randrange(1, 24 * MIB))
        name = f"file-{len(sums):03d}"
        if len(sums) % 2:
            data = generator.randbytes(length)
        else:
            data = (f"line of {name} and its number\n".encode() * (length // 16 + 1))[:length]
        (content / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
        budget -= length
    disk = Disk(folder / "file-system.raw", size_bytes)
    tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(content), str(disk.path))
    return disk, sums


def files_of(raw: Path, names: list[str]) -> dict[str, str]:
    """The SHA-256 of files on an ext4 disk, read with debugfs."""
    sums = {}
    for name in names:
        out = raw.parent / "dumped"
        tool("debugfs", "-R", f"dump /{name} {out}", str(raw))
        sums[name] = hashlib.sha256(out.read_bytes()).hexdigest()
        out.unlink()
    return sums
