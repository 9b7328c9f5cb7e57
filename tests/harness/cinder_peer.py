"""Cinder's RBD driver, its Ceph backup driver, Glance's RBD store and what Nova does, told on standard input.

One JSON list a line, [what, *arguments]; one JSON answer a line, {"answer": …} or {"error": …}. It runs in an
environment of its own, with nothing of Basalt in it. The drivers do to the cluster exactly what the services
do; what stands around them in the services (database, queues, API) is left out.
"""

import contextlib
import json
import os
import sys
import traceback
import warnings

warnings.simplefilter("ignore")
# What a library prints is no answer.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from oslo_concurrency import processutils  # noqa: E402
from oslo_config import cfg  # noqa: E402
import cinder.common.config  # noqa: E402, F401
from cinder import context, exception, objects  # noqa: E402
from cinder.db import api as db  # noqa: E402
from cinder.db import migration  # noqa: E402
from cinder.backup.drivers import ceph as ceph_backup  # noqa: E402
from cinder.volume import configuration  # noqa: E402
from cinder.volume.drivers import rbd as rbd_driver  # noqa: E402
import rados  # noqa: E402
import rbd  # noqa: E402
from os_brick.initiator import linuxrbd  # noqa: E402

CONF_FILE, WORK = sys.argv[1], sys.argv[2]
objects.register_all()
CONF = cfg.CONF
CONF([], project="cinder")
CONF.set_override("lock_path", WORK, group="oslo_concurrency")
CONF.set_override("connection", f"sqlite:///{WORK}/cinder.sqlite", group="database")
CONTEXT = context.get_admin_context()


def volume_driver():
    group = configuration.Configuration(rbd_driver.RBD_OPTS, config_group="rbd")
    for name, value in {"rbd_ceph_conf": CONF_FILE, "rbd_user": "cinder", "rbd_pool": "volumes"}.items():
        CONF.set_override(name, value, group="rbd")
    driver = rbd_driver.RBDDriver(configuration=group, execute=processutils.execute)
    driver.do_setup(CONTEXT)
    driver.check_for_setup_error()
    return driver


migration.db_sync()
DRIVER = volume_driver()
TYPE_ID = db.volume_type_create(CONTEXT, {"name": "any", "extra_specs": {}})["id"]


def volume(identity: str, size: int = 1) -> objects.Volume:
    row = objects.Volume(
        CONTEXT, id=identity, _name_id=None, size=size, volume_type_id=None, volume_type=None, multiattach=False,
        encryption_key_id=None, provider_location=None, host="peer@rbd#rbd", display_name="", status="available",
        project_id="project", user_id="user", metadata={}, admin_metadata={}, bootable=False, use_quota=True,
        replication_status=None, replication_driver_data=None,
        volume_attachment=objects.VolumeAttachmentList(objects=[]),
    )
    remember(identity, size)
    return row


def remember(identity: str, size: int) -> None:
    """The row that the backup driver looks up."""
    try:
        db.volume_update(CONTEXT, identity, {"size": size})
    except exception.VolumeNotFound:
        values = {"id": identity, "size": size, "volume_type_id": TYPE_ID, "status": "available", "host": "peer@rbd#rbd"}
        db.volume_create(CONTEXT, values)


def snapshot(identity: str, volume_id: str, size: int = 1) -> objects.Snapshot:
    return objects.Snapshot(
        CONTEXT, id=identity, volume_id=volume_id, volume_size=size, volume=volume(volume_id, size), use_quota=True,
    )


class Calls:
    def create_volume(self, identity, size=1):
        DRIVER.create_volume(volume(identity, size))

    def clone_volume(self, identity, source, size=1):
        DRIVER.create_cloned_volume(volume(identity, size), volume(source, size))

    def create_from_snapshot(self, identity, snapshot_id, source, size=1):
        DRIVER.create_volume_from_snapshot(volume(identity, size), snapshot(snapshot_id, source, size))

    def clone_image(self, identity, location, size=1):
        image = {"id": location.split("/")[-2], "disk_format": "raw"}
        _, cloned = DRIVER.clone_image(CONTEXT, volume(identity, size), (location, []), image, None)
        return cloned

    def create_snapshot(self, identity, volume_id):
        DRIVER.create_snapshot(snapshot(identity, volume_id))

    def delete_snapshot(self, identity, volume_id):
        DRIVER.delete_snapshot(snapshot(identity, volume_id))

    def delete_volume(self, identity):
        DRIVER.delete_volume(volume(identity))

    def extend(self, identity, size):
        DRIVER.extend_volume(volume(identity), size)

    def revert(self, identity, snapshot_id):
        DRIVER.revert_to_snapshot(CONTEXT, volume(identity), snapshot(snapshot_id, identity))

    def limits(self, identity):
        return DRIVER.get_rbd_image_qos(volume(identity))

    # Backups

    def _driver(self):
        for name, value in {"backup_ceph_conf": CONF_FILE, "backup_ceph_user": "cinder-backup"}.items():
            CONF.set_override(name, value)
        return ceph_backup.CephBackupDriver(CONTEXT)

    def _file(self, identity):
        user, pool = DRIVER.configuration.rbd_user, DRIVER.configuration.rbd_pool
        client = rbd_driver.RADOSClient(DRIVER, pool)
        image = rbd.Image(client.ioctx, f"volume-{identity}")
        metadata = linuxrbd.RBDImageMetadata(image, pool, user, CONF_FILE)
        file = linuxrbd.RBDVolumeIOWrapper(metadata)
        file.client = client
        return file

    def _backup(self, identity, volume_id, parent=None, service_metadata=None):
        row = {
            "id": identity, "volume_id": volume_id, "container": "backups", "parent_id": parent,
            "service_metadata": service_metadata, "size": 1, "status": "creating", "project_id": "project",
            "user_id": "user", "service": "cinder.backup.drivers.ceph.CephBackupDriver",
        }
        db.backup_create(CONTEXT, row)
        return objects.Backup.get_by_id(CONTEXT, identity)

    def create_backup(self, identity, volume_id, size=1, parent=None):
        volume(volume_id, size)
        row = self._backup(identity, volume_id, parent)
        file = self._file(volume_id)
        try:
            updates = self._driver().backup(row, file, backup_metadata=False) or {}
        finally:
            file.close()
        row.update({"status": "available", **updates})
        row.save()
        return row.service_metadata

    def know_backup(self, identity, volume_id, service_metadata, parent=None):
        """A backup that another made."""
        self._backup(identity, volume_id, parent, service_metadata)

    def export_record(self, identity):
        """What `cinder backup-export` prints."""
        row = objects.Backup.get_by_id(CONTEXT, identity)
        return {"backup_service": row.service, "backup_url": row.encode_record(driver_info={})}

    def restore_backup(self, identity, volume_id, size=1):
        """To another volume, which is new."""
        volume(volume_id, size)
        file = self._file(volume_id)
        try:
            self._driver().restore(objects.Backup.get_by_id(CONTEXT, identity), volume_id, file, True)
        finally:
            file.close()

    def delete_backup(self, identity):
        row = objects.Backup.get_by_id(CONTEXT, identity)
        self._driver().delete_backup(row)
        row.destroy()

    # Images

    def _store(self):
        import glance_store
        from glance_store._drivers import rbd as store_driver

        if not hasattr(self, "_glance"):
            conf = cfg.ConfigOpts()
            glance_store.register_opts(conf)
            conf([], default_config_files=[])
            for name, value in {"rbd_store_ceph_conf": CONF_FILE, "rbd_store_user": "glance", "rbd_store_pool": "images"}.items():
                conf.set_override(name, value, group="glance_store")
            self._glance = store_driver.Store(conf)
            self._glance.configure()
        return self._glance

    def add_image(self, identity, path):
        with open(path, "rb") as data:
            location = self._store().add(identity, data, os.path.getsize(path), "sha512")[0]
        return location

    def _location(self, url):
        from glance_store import location
        from glance_store._drivers import rbd as store_driver

        return location.Location("rbd", store_driver.StoreLocation, self._store().conf, uri=url)

    def read_image(self, url, path):
        data, _ = self._store().get(self._location(url))
        with open(path, "wb") as file:
            for piece in data:
                file.write(piece)

    def delete_image(self, url):
        self._store().delete(self._location(url))

    # Nova's libvirt driver on RBD: the calls of nova/storage/rbd_utils.py, in its order.

    def boot_disk(self, server, url, size):
        """The disk of a server as a clone of an image."""
        _, pool, image, snapshot = url.removeprefix("rbd://").split("/")
        with nova(pool) as images, nova("vms") as disks:
            rbd.RBD().clone(images, image, snapshot, disks, f"{server}_disk", features=61)
            with rbd.Image(disks, f"{server}_disk") as disk:
                disk.resize(size)

    def direct_snapshot(self, server, image):
        """The disk becomes an image of the image service's pool; answers its location."""
        name, temporary = f"{server}_disk", image.replace("-", "")
        with nova("vms") as disks, nova("images") as images:
            with rbd.Image(disks, name) as disk:
                disk.create_snap(temporary)
                disk.protect_snap(temporary)
            rbd.RBD().clone(disks, name, temporary, images, image, features=61)
            with rbd.Image(images, image) as clone:
                clone.flatten()
            with rbd.Image(disks, name) as disk:
                disk.unprotect_snap(temporary)
                disk.remove_snap(temporary)
            with rbd.Image(images, image) as clone:
                clone.create_snap("snap")
                clone.protect_snap("snap")
            return f"rbd://{DRIVER._get_fsid()}/images/{image}/snap"

    def remove_disk(self, server):
        with nova("vms") as disks:
            rbd.RBD().remove(disks, f"{server}_disk")


@contextlib.contextmanager
def nova(pool: str):
    """A pool, as the compute host's user sees it."""
    with rados.Rados(rados_id="nova", conffile=CONF_FILE) as client, client.open_ioctx(pool) as context:
        yield context


def main() -> None:
    calls = Calls()
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            answer = {"answer": getattr(calls, what)(*arguments)}
        except Exception as error:  # noqa: BLE001
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


main()
