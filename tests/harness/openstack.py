"""The unmodified `openstack` command line client, one process per command, as a user runs it."""

import json
import os
import subprocess
import time
from pathlib import Path

from . import prepare

# How long a resource may take to reach its status; a limit against hanging, not a measurement.
SETTLE_TIMEOUT_S = 300


class CommandFailed(Exception):
    """The client ended with a status other than 0; the text is what it printed."""


class OpenStack:
    """Runs `openstack` against a cloud of a clouds.yaml: the one that a server wrote, unless told."""

    def __init__(self, server, cloud: str = "basalt", clouds: Path | None = None):
        self.clouds = clouds or server.data / "clouds.yaml"
        self.cloud = cloud
        self.commands = 0

    def run(self, *arguments: str, microversion: str | None = None) -> str:
        self.commands += 1
        environment = {
            **os.environ,
            "OS_CLIENT_CONFIG_FILE": str(self.clouds),
            "OS_CLOUD": self.cloud,
        }
        command = [str(prepare.VENV / "bin" / "openstack")]
        if microversion:
            command += ["--os-volume-api-version", microversion]
        result = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if result.returncode != 0:
            raise CommandFailed(f"openstack {' '.join(arguments)}\n{result.stdout}{result.stderr}")
        return result.stdout

    def json(self, *arguments: str, microversion: str | None = None):
        return json.loads(self.run(*arguments, "-f", "json", microversion=microversion))

    def fails(self, text: str, *arguments: str, microversion: str | None = None) -> None:
        """The command must be refused with a message that contains `text`."""
        try:
            self.run(*arguments, microversion=microversion)
        except CommandFailed as error:
            assert text.lower() in str(error).lower(), f"expected {text!r} in: {error}"
            return
        raise AssertionError(f"openstack {' '.join(arguments)} was not refused")

    def wait(self, resource: list[str], name: str, status: str = "available") -> dict:
        """Polls `show` until the status is reached; an error status fails at once."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            shown = self.json(*resource, "show", name)
            if shown["status"] == status:
                return shown
            if shown["status"].startswith("error") or time.monotonic() > deadline:
                raise AssertionError(f"{' '.join(resource)} {name} is {shown['status']}, not {status}: {shown}")

    def wait_gone(self, resource: list[str], name: str) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            try:
                shown = self.json(*resource, "show", name)
            except CommandFailed as error:
                assert "no " in str(error).lower() or "not found" in str(error).lower(), error
                return
            if shown["status"].startswith("error_") or time.monotonic() > deadline:
                raise AssertionError(f"{' '.join(resource)} {name} is {shown['status']}, not gone")
