"""Compares what the APIs say, what the clients know, and what the store holds."""

from .rest import Cloud



def rows(cloud: Cloud, collection: str) -> list[dict]:
    """Every row of a collection, page by page."""
    rest = cloud.image() if collection == "images" else cloud.volume()
    found: list[dict] = []
    path = "/images?limit=100" if collection == "images" else f"/{collection}/detail?limit=100"
    marker = ""
    while True:
        page = rest.ok("GET", path + marker)[collection]
        found += page
        if len(page) < 100:
            return found
        marker = f"&marker={page[-1]['id']}"


def audit_rows(cloud: Cloud, clients) -> None:
    """Every row is final and somebody's; everything a client knows is there."""
    known = {
        "volumes": {volume.id for client in clients for volume in client.volumes},
        "snapshots": {snapshot[0] for client in clients for volume in client.volumes for snapshot in volume.snapshots},
        "backups": {backup[0] for client in clients for volume in client.volumes for backup in volume.backups},
    }
    for collection, expected in known.items():
        found = {row["id"]: row["status"] for row in rows(cloud, collection)}
        assert found.keys() == expected, f"{collection}: unknown {found.keys() - expected}, lost {expected - found.keys()}"
        wrong = {identity: status for identity, status in found.items() if status != "available"}
        assert not wrong, f"{collection} not available: {wrong}"


def audit_quota(cloud: Cloud) -> None:
    """Usage equals the sum over the rows, for each resource."""
    volumes, snapshots, backups = (rows(cloud, name) for name in ("volumes", "snapshots", "backups"))
    expected = {
        "volumes": len(volumes),
        "snapshots": len(snapshots),
        "gigabytes": sum(row["size"] for row in volumes + snapshots),
        "backups": len(backups),
        "backup_gigabytes": sum(row["size"] for row in backups),
    }
    usage = cloud.volume().ok("GET", f"/os-quota-sets/{cloud.project}?usage=True")["quota_set"]
    for resource, count in expected.items():
        assert usage[resource]["in_use"] == count, f"{resource}: {usage[resource]}, the rows say {count}"
        assert usage[resource]["reserved"] == 0, f"{resource}: {usage[resource]}"


def audit_store(server, cloud: Cloud) -> None:
    """Each image and snapshot in the store is explained by a row, and each row has its image."""
    volumes = {row["id"]: row for row in rows(cloud, "volumes")}
    snapshots = {row["id"]: row["volume_id"] for row in rows(cloud, "snapshots")}
    backups = {row["id"] for row in rows(cloud, "backups")}
    images = {row["id"] for row in rows(cloud, "images") if row["status"] == "active"}
    server.settle()
    server.stop()
    held = server.store_usage()["images"]
    for image in held:
        image["snapshots"] = [snapshot["name"] for snapshot in image["snapshots"]]
    server.audit_links(held)
    server.start()
    # Deleted, but still needed by a clone.
    kept = {image["image"].removeprefix("volume-").removesuffix(".deleted") for image in held if image["image"].endswith(".deleted")}
    found_volumes, found_snapshots, found_images, found_backups = set(), set(), set(), set()
    for image in held:
        name, pool = image["image"], image["pool"]
        if name.endswith(".deleted"):
            assert image["snapshots"], f"orphan {pool}/{name}"
            assert all(_clone_of(snapshot) in volumes.keys() | kept for snapshot in image["snapshots"]), f"orphan in {image}"
        elif pool == "volumes":
            identity = name.removeprefix("volume-")
            assert identity in volumes, f"orphan {pool}/{name}"
            assert image["size_bytes"] == volumes[identity]["size"] << 30, (image, volumes[identity])
            found_volumes.add(identity)
            found_snapshots |= _explained(name, identity, image["snapshots"], snapshots, volumes.keys() | kept, backups)
        elif pool == "images":
            assert name in images, f"orphan {pool}/{name}"
            found_images.add(name)
        else:
            for snapshot in image["snapshots"]:
                backup = snapshot.removeprefix("backup.").split(".snap.")[0]
                assert backup in backups, f"orphan {pool}/{name}@{snapshot}"
                found_backups.add(backup)
            assert image["snapshots"], f"orphan {pool}/{name}"
    assert found_volumes == volumes.keys(), f"volumes without image: {volumes.keys() - found_volumes}"
    assert found_snapshots == snapshots.keys(), f"snapshots not in the store: {snapshots.keys() - found_snapshots}"
    assert found_images == images, f"images not in the store: {images - found_images}"
    assert found_backups == backups, f"backups not in the store: {backups - found_backups}"


def _clone_of(snapshot: str) -> str:
    """The volume that was cloned through a snapshot."""
    return snapshot.removeprefix("volume-").removesuffix(".clone_snap")


def _explained(name: str, volume: str, held: list[str], snapshots: dict, volumes: set, backups: set) -> set[str]:
    """The volume's snapshots by id; anything else must belong to a living clone or backup."""
    found = set()
    for snapshot in held:
        if snapshot.startswith("snapshot-"):
            identity = snapshot.removeprefix("snapshot-")
            assert snapshots.get(identity) == volume, f"orphan {name}@{snapshot}"
            found.add(identity)
        elif snapshot.endswith(".clone_snap"):
            assert _clone_of(snapshot) in volumes, f"orphan {name}@{snapshot}"
        elif snapshot.startswith("backup."):
            backup = snapshot.removeprefix("backup.").split(".snap.")[0]
            assert backup in backups, f"orphan {name}@{snapshot}"
        else:
            raise AssertionError(f"orphan {name}@{snapshot}")
    return found


def audit_empty(server, cloud: Cloud) -> None:
    """Nothing is left: no row, no quota, no image, no byte."""
    for collection in ("volumes", "snapshots", "backups", "images"):
        left = rows(cloud, collection)
        assert not left, f"{collection} left: {left}"
    audit_quota(cloud)
    server.settle()
    server.stop()
    usage = server.store_usage()
    assert usage["used_bytes"] == 0 and not usage["images"], usage
    server.check_store()
    server.start()
