"""Environments with OpenStack's Python services, which use the Ceph libraries of the operating system."""

from pathlib import Path

from . import prepare

CINDER_VENV = prepare.ROOT / "target" / "interchange-venv"


def cinder_environment() -> Path:
    """Cinder, its drivers' libraries and Glance's stores."""
    prepare.virtual_environment(CINDER_VENV, ["cinder", "glance_store", "os-brick", "PyMySQL"])
    link_ceph(CINDER_VENV)
    return CINDER_VENV


def link_ceph(venv: Path) -> None:
    """The bindings of the cluster's librbd come from Debian, for Debian's Python."""
    packages = next((venv / "lib").glob("python3*")) / "site-packages"
    for binding in ("rbd", "rados"):
        for library in Path("/usr/lib/python3/dist-packages").glob(f"{binding}.cpython*.so"):
            (packages / library.name).unlink(missing_ok=True)
            (packages / library.name).symlink_to(library)
