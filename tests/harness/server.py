"""One Basalt process on free loopback ports with a data folder of its own."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import prepare

# A start that takes longer has failed. Generous: CI machines stall.
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30


def free_ports(count: int) -> list[int]:
    """Ports that are free now; held together so that none is handed out twice."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Basalt:
    """Starts, kills, restarts and stops one server; as a context manager it cleans up after itself."""

    # Whether an image that volumes were cloned from is refused to go.
    images_wait_for_clones = False
    # What a process ends with on SIGTERM.
    good_ends = (0,)

    def __init__(self, folder: Path | None = None, config: str = ""):
        self.owns_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="basalt-test-")) if folder is None else folder
        self.data = self.folder / "data"
        self.log = self.folder / "basalt.log"
        self.volume_port, self.image_port, self.identity_port = free_ports(3)
        self.config = self.folder / "basalt.conf"
        self.config.write_text(config)
        self.process: subprocess.Popen | None = None

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "OS_DEFAULT__OSAPI_VOLUME_LISTEN_PORT": str(self.volume_port),
            "OS_IMAGE_API__BIND_PORT": str(self.image_port),
            "OS_DEV_IDENTITY__BIND_PORT": str(self.identity_port),
        }

    def command(self, *arguments: str) -> list[str]:
        return [str(prepare.BINARY), *arguments]

    def start(self) -> float:
        """Starts the process; returns the seconds until both APIs answered 200."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve", "--data-dir", str(self.data), "--config-file", str(self.config)),
                env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )
        while not (self._answers(self.volume_port) and self._answers(self.image_port)):
            if self.process.poll() is not None:
                raise RuntimeError(f"basalt exited with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() - began > START_TIMEOUT_S:
                raise RuntimeError(f"basalt did not answer in {START_TIMEOUT_S} s:\n{self.log_tail()}")
            time.sleep(0.005)
        return time.monotonic() - began

    @staticmethod
    def _answers(port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def kill(self) -> None:
        """kill -9: nothing gets to finish."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; the process must end by itself, with status 0."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=STOP_TIMEOUT_S)
        if code not in self.good_ends:
            raise RuntimeError(f"basalt ended with {code} on SIGTERM:\n{self.log_tail()}")

    def settle(self) -> None:
        """Waits until no flow is left to run: an image's delete answers before its space is back."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while flows := json.loads(self.operator("flows", "--json")):
            if time.monotonic() > deadline:
                raise AssertionError(f"flows do not end: {flows}")
            time.sleep(0.1)

    def operator(self, *arguments: str) -> str:
        """Runs an operator command of the binary on this data folder; returns its output."""
        command = self.command(*arguments, "--data-dir", str(self.data), "--config-file", str(self.config))
        result = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result.stdout

    def store_usage(self) -> dict:
        """What the store holds, by `basalt store du --json`, beside the server or without it."""
        return json.loads(self.operator("store", "du", "--json"))

    def used_bytes(self) -> int:
        """Data that images and snapshots keep, shared data once."""
        return self.store_usage()["used_bytes"]

    def store_bytes(self) -> int:
        """Bytes that the store's data takes on the file system, holes left out."""
        return sum(path.stat().st_blocks * 512 for path in (self.data / "store" / "chunks").iterdir())

    def check_store(self) -> None:
        """The store finds nothing wrong with itself; the server must be stopped."""
        self.operator("store", "check")

    def audit_links(self, held: list[dict]) -> None:
        """`store check` compares all links; see `audit_empty`."""

    def export(self, name: str) -> str:
        """The NBD address of a volume, snapshot or image for qemu-img."""
        return f"nbd+unix:///{name}?socket={self.data / 'nbd.sock'}"

    def __enter__(self) -> "Basalt":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.process is not None and self.process.poll() is None:
            if kind is None:
                self.stop()
            else:
                self.kill()
        if kind is not None:
            print(f"--- the end of {self.log} ---\n{self.log_tail()}", flush=True)
        elif self.owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
