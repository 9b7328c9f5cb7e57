"""Tempest in a folder of its own: configuration, one run, and what came of every test."""

import configparser
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import prepare
from .server import Basalt

# What Tempest says when it skips a test that cannot run here: one that needs a compute service,
# and one that Tempest has switched off itself.
CANNOT_RUN = ("nova", "Nova", "compute", "Skipped until bug", "No image_remote service")
@dataclass
class Outcome:
    """What became of the tests, by name; a skipped one with its reason."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_junit(cls, report: str) -> "Outcome":
        outcome = cls()
        for case in ElementTree.fromstring(report).iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            skip = case.find("skipped")
            failure = case.find("failure") if case.find("failure") is not None else case.find("error")
            if skip is not None:
                outcome.skipped[name] = (skip.get("message") or skip.text or "").strip()
            elif failure is not None:
                outcome.failed[name] = (failure.text or "").strip()
            else:
                outcome.passed.append(name)
        return outcome

    def add(self, other: "Outcome") -> None:
        """Counts another run's tests too."""
        self.passed += other.passed
        self.failed.update(other.failed)
        self.skipped.update(other.skipped)

    def avoidable_skips(self) -> dict[str, str]:
        """Skipped, but for none of the reasons in `CANNOT_RUN`."""
        return {
            name: reason
            for name, reason in self.skipped.items()
            if not any(word in reason for word in CANNOT_RUN)
        }

    def show(self) -> None:
        for reason, count in Counter(self.skipped.values()).most_common():
            print(f"  skipped {count}: {reason}")
        for name, reason in sorted(self.avoidable_skips().items()):
            print(f"  skipped, but could run: {name}: {reason}")
        for name, text in sorted(self.failed.items()):
            print(f"\n  FAILED {name}\n{text[-3000:]}")


class Tempest:
    """One Tempest workspace against one server."""

    def __init__(self, server: Basalt, sections: dict[str, dict[str, object]]):
        self.folder = server.folder / "tempest"
        self.python = prepare.virtual_environment(prepare.TEMPEST_VENV, ["tempest", "junitxml"])
        (self.folder / "etc").mkdir(parents=True)
        (self.folder / "locks").mkdir()
        self._write_configuration(sections)
        packages = next(prepare.TEMPEST_VENV.glob("lib/python*/site-packages"))
        (self.folder / ".stestr.conf").write_text(
            f"[DEFAULT]\ntest_path={packages}/tempest/test_discover\ntop_dir={packages}\n"
            "group_regex=([^\\.]*\\.)*\n"
        )

    def _write_configuration(self, sections: dict) -> None:
        base = {
            "DEFAULT": {"log_file": self.folder / "tempest.log", "debug": True},
            "identity-feature-enabled": {"api_v2": False, "api_v3": True},
            "enforce_scope": {"cinder": True, "glance": True},
            "oslo_concurrency": {"lock_path": self.folder / "locks"},
            "service_available": {
                "cinder": True, "glance": True, "nova": False, "swift": False, "horizon": False,
                # Nothing asks for it; classes in which some tests boot servers are skipped whole without it.
                "neutron": True,
            },
        }
        parser = configparser.ConfigParser(interpolation=None)
        for section in {*base, *sections}:
            parser[section] = {
                key: str(value) for key, value in {**base.get(section, {}), **sections.get(section, {})}.items()
            }
        with (self.folder / "etc" / "tempest.conf").open("w") as file:
            parser.write(file)

    def run(self, pattern: str, workers: int) -> Outcome:
        """Runs what matches; the progress goes to the terminal."""
        tools = prepare.TEMPEST_VENV / "bin"
        environment = {
            "PATH": f"{tools}:/usr/bin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8",
            "TEMPEST_CONFIG_DIR": str(self.folder / "etc"),
            "OS_TEST_TIMEOUT": "300",
        }
        command = [str(tools / "stestr"), "run", "--concurrency", str(workers), pattern]
        with (self.folder / "run.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            done = 0
            for line in process.stdout:
                log.write(line)
                if line.rstrip().endswith(("... ok", "... FAILED")) or "... SKIPPED" in line:
                    done += 1
                    if done % 20 == 0:
                        print(f"  {done} tests", flush=True)
            process.wait()
        stream = subprocess.run(
            [str(tools / "stestr"), "last", "--subunit"], cwd=self.folder, env=environment, capture_output=True
        )
        report = subprocess.run(
            [str(tools / "subunit2junitxml")], input=stream.stdout, env=environment, capture_output=True
        )
        return Outcome.of_junit(report.stdout.decode())
