"""Installs what the suites need and builds Basalt, on a machine where nothing is prepared.

Debian packages come from apt (with sudo when not root), Python packages into a virtual
environment of their own under target/. Everything is skipped when it is there already.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "target" / "tests-venv"
BINARY = ROOT / "target" / "release" / "basalt"

# command that shows the package is there -> Debian package
APT_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
WRK = {"wrk": "wrk"}
QEMU_RBD = Path("/usr/lib/x86_64-linux-gnu/qemu/block-rbd.so")
PYPI_PACKAGES = ["python-openstackclient"]
TEMPEST_VENV = ROOT / "target" / "tempest-venv"


def _run(*command: str) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout[-4000:]}")


def _as_root(*command: str) -> None:
    _run(*([] if os.geteuid() == 0 else ["sudo"]), *command)


def _find(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def apt(packages: dict[str, str]) -> None:
    """Installs the Debian packages whose command is missing."""
    missing = sorted({package for command, package in packages.items() if not _find(command)})
    if not missing:
        return
    print(f"installing {' '.join(missing)}", file=sys.stderr, flush=True)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    _as_root("apt-get", "update")
    _as_root("apt-get", "install", "-y", "--no-install-recommends", *missing)


def apt_without_services(packages: dict[str, str]) -> None:
    """Installs packages that would start a daemon of their own where nothing forbids it."""
    policy = Path("/usr/sbin/policy-rc.d")
    made = not policy.exists() and any(not _find(command) for command in packages)
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        apt(packages)
    finally:
        if made:
            policy.unlink()


def qemu_on_rbd() -> None:
    """Lets qemu-img and qemu-io read and write RBD.

    The driver works with QEMU of its own version only: beside another one, of backports
    say, apt would remove qemu-utils. So both come in the version that the driver has.
    """
    if QEMU_RBD.exists():
        return
    _as_root("apt-get", "update")
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", "qemu-block-extra"], capture_output=True, text=True)
    version = next(line.split()[1] for line in shown.stdout.splitlines() if line.startswith("Version:"))
    packages = [f"{name}={version}" for name in ("qemu-block-extra", "qemu-utils")]
    _as_root("apt-get", "install", "-y", "--no-install-recommends", "--allow-downgrades", *packages)


def virtual_environment(folder: Path = VENV, packages: list[str] = PYPI_PACKAGES) -> Path:
    """The Python of an environment with the newest of the packages; made on first use."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    print(f"installing {' '.join(packages)} from PyPI", file=sys.stderr, flush=True)
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
        apt({"no-such-command-ensurepip": "python3-venv"})
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    ready.touch()
    return python


def build() -> Path:
    """Builds the release binary; cargo does nothing where it is up to date."""
    if subprocess.run(["cargo", "build", "--release", "--locked", "-p", "basalt"], cwd=ROOT).returncode:
        sys.exit("cargo build failed")
    return BINARY


def example(name: str, features: str = "") -> Path:
    """An example program of the store, built like the release binary."""
    command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "storage", "--example", name]
    command += ["--features", features] if features else []
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(f"the example {name} was not built")
    return ROOT / "target" / "release" / "examples" / name


def enter() -> None:
    """Prepares everything, then continues the calling script under the environment's Python."""
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    apt(APT_PACKAGES)
    python = virtual_environment()
    build()
    os.execv(python, [str(python), *sys.argv])
