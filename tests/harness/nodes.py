"""A cloud of several Basalt processes with roles of their own, on one database, broker and cluster."""

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from .balancer import Balancer
from .ceph import BasaltOnCeph, Ceph
from .server import START_TIMEOUT_S, STOP_TIMEOUT_S, Basalt

# How many processes of which roles a cloud has.
LAYOUT = {"volume-api": 2, "image-api": 2, "volume-scheduler": 2, "volume-manager": 3, "volume-backup": 2}
LEASE_S = 6
CONFIG = f"""flow_lease_time = {LEASE_S}
cluster = one
"""
NOTIFICATIONS = """[oslo_messaging_notifications]
driver = messagingv2
driver = log
"""


class Node(Basalt):
    """One process of one role."""

    # It may have begun so lately that it does not listen to signals yet.
    good_ends = (0, -signal.SIGTERM)

    def __init__(self, role: str, number: int, folder: Path, config: Path):
        self.role = role
        self.host = f"{role}-{number}"
        folder = folder / self.host
        folder.mkdir()
        super().__init__(folder)
        self.config = config

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "OS_DEFAULT__HOST": self.host}

    def launch(self) -> None:
        with self.log.open("ab") as log:
            arguments = ["--log-json", "--role", self.role, "--data-dir", str(self.data), "--config-file", str(self.config)]
            self.process = subprocess.Popen(
                self.command("serve", *arguments), env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Fault:
    """Something that goes wrong with a node, and when it is put right again."""

    what: str
    node: Node
    until: float = field(default=0.0)


class Nodes(BasaltOnCeph):
    """All of the processes as one server: the load and the audits use it like one."""

    def __init__(self, ceph: Ceph, defaults: str):
        super().__init__(ceph, CONFIG + defaults)
        self.nodes = [
            Node(role, number, self.folder, self.config) for role, count in LAYOUT.items() for number in range(1, count + 1)
        ]
        ports = {
            "volume": [node.volume_port for node in self.of("volume-api")],
            "image": [node.image_port for node in self.of("image-api")],
        }
        self.balancer = Balancer(self.folder, ports)
        self.volume_port, self.image_port = self.balancer.ports["volume"], self.balancer.ports["image"]
        with self.config.open("a") as config:
            config.write(f"[DEFAULT]\nglance_api_servers = http://127.0.0.1:{self.image_port}\n")
            config.write(NOTIFICATIONS)

    def of(self, role: str) -> list[Node]:
        return [node for node in self.nodes if node.role == role]

    def start(self) -> float:
        """Starts what does not run; returns when every API answers and every service is up."""
        began = time.monotonic()
        for node in self.nodes:
            if not node.is_running():
                node.launch()
        waiting = {
            **{node.host: node.volume_port for node in self.of("volume-api")},
            **{node.host: node.image_port for node in self.of("image-api")},
        }
        while waiting := {host: port for host, port in waiting.items() if not self._answers(port)}:
            self.check_running_but([])
            if time.monotonic() - began > 2 * START_TIMEOUT_S:
                raise RuntimeError(f"{list(waiting)} do not answer\n{self.log_tail()}")
            time.sleep(0.02)
        # The balancer looks twice a second.
        while not (self._answers(self.volume_port) and self._answers(self.image_port)):
            time.sleep(0.02)
        return time.monotonic() - began

    def check_running_but(self, ill: list[Node]) -> None:
        """No process may have ended by itself."""
        for node in self.nodes:
            if node not in ill and not node.is_running():
                raise RuntimeError(f"{node.host} ended with {node.process.returncode}:\n{node.log_tail()}")

    def stop(self) -> None:
        running = [node for node in self.nodes if node.is_running()]
        for node in running:
            node.process.send_signal(signal.SIGTERM)
        for node in running:
            code = node.process.wait(timeout=STOP_TIMEOUT_S)
            if code not in node.good_ends:
                raise RuntimeError(f"{node.host} ended with {code} on SIGTERM:\n{node.log_tail()}")

    def kill(self) -> None:
        for node in self.nodes:
            if node.is_running():
                node.kill()

    def operator(self, *arguments: str) -> str:
        """Any node can ask: what they share is in the database."""
        return self.of("volume-manager")[0].operator(*arguments)

    def takeovers(self) -> int:
        """How often a node went on with a flow of another one."""
        return sum(node.log.read_text(errors="replace").count("takes over a flow") for node in self.nodes)

    def log_tail(self, lines: int = 12) -> str:
        return "\n".join(f"--- {node.host}\n{node.log_tail(lines)}" for node in self.nodes if node.log.exists())

    def __enter__(self) -> "Nodes":
        self.balancer.__enter__()
        return self

    def __exit__(self, kind, error, trace) -> None:
        for node in self.nodes:
            if node.is_running():
                node.thaw()
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()
            self.balancer.__exit__()
            self.process = None
            super().__exit__(kind, error, trace)
