"""What a cluster holds, as JSON, by Ceph's own client: see testing.rs. Its argument is the path of ceph.conf."""

import json
import sys

import rados
import rbd

PARTS = ("rbd_id.", "rbd_header.", "rbd_object_map.", "journal.")


def clones(image, snapshot):
    """Names of the clones of a snapshot, those in the trash, too."""
    image.set_snap(snapshot)
    found = sorted(child["image"] for child in image.list_children2())
    image.set_snap(None)
    return found


def images(pool):
    held, ids = {}, set()
    for name in rbd.RBD().list(pool):
        try:
            image = rbd.Image(pool, name, read_only=True)
        except rbd.ImageNotFound:
            held[name] = "a name without an image"
            continue
        with image:
            snapshots = [snapshot["name"] for snapshot in image.list_snaps()]
            held[name] = {snapshot: clones(image, snapshot) for snapshot in snapshots}
            ids.add(image.id())
    return held, ids


def owner(key):
    """The name or id of an object's image: rbd_object_map.<id>.<snapshot>, rbd_data.<id>.<number>, rbd_id.<name>."""
    kind, rest = key.split(".", 1)
    return rest if kind in ("rbd_id", "rbd_header") else rest.split(".")[0]


def pool_of(pool):
    held, ids = images(pool)
    keys = [entry.key for entry in pool.list_objects()]
    others = [key for key in keys if "." in key and owner(key) not in ids | set(held)]
    return {
        "images": held,
        "trash": [entry["name"] for entry in rbd.RBD().trash_list(pool)],
        "remains": [key for key in others if key.startswith(PARTS)],
        "data": [key for key in others if key.startswith("rbd_data.")],
    }


with rados.Rados(rados_id="admin", conffile=sys.argv[1]) as cluster:
    everything = {}
    for name in cluster.list_pools():
        with cluster.open_ioctx(name) as ioctx:
            if "rbd" in ioctx.application_list():
                everything[name] = pool_of(ioctx)
print(json.dumps(everything))
