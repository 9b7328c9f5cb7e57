"""HAProxy in front of several APIs, as a cloud has it."""

import subprocess
import time
from pathlib import Path

from . import prepare
from .server import free_ports

# Connections that are refused go to the next server; requests that were sent are the client's to repeat.
CONFIG = """
defaults
    mode http
    timeout connect 2s
    timeout client 120s
    timeout server 120s
    retries 5
    option redispatch 1
    retry-on conn-failure
    default-server check inter 500ms fall 2 rise 1
"""
PART = """
frontend {name}
    bind 127.0.0.1:{port}
    default_backend {name}-nodes
backend {name}-nodes
    option httpchk GET /healthcheck
{servers}
"""


class Balancer:
    """One port for each API; as a context manager it runs as long as it is entered."""

    def __init__(self, folder: Path, backends: dict[str, list[int]]):
        prepare.apt_without_services({"haproxy": "haproxy"})
        self.ports = dict(zip(backends, free_ports(len(backends)), strict=True))
        self.folder = folder
        parts = [CONFIG]
        for name, ports in backends.items():
            servers = "\n".join(f"    server {name}-{port} 127.0.0.1:{port}" for port in ports)
            parts.append(PART.format(name=name, port=self.ports[name], servers=servers))
        self.config = folder / "haproxy.cfg"
        self.config.write_text("".join(parts))
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Balancer":
        log = (self.folder / "haproxy.log").open("ab")
        self.process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(self.config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        time.sleep(0.2)
        if self.process.poll() is not None:
            raise RuntimeError(f"haproxy ended with {self.process.returncode}: {(self.folder / 'haproxy.log').read_text()}")
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
