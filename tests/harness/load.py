"""A random load whose every effect is known: each client owns its volumes and says what they hold.

A client does one thing at a time and waits for its end, across restarts of the server. An
accepted request must be carried out; one whose answer was lost may or may not have been.
"""

import random
import subprocess
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from .rest import Cloud, Unanswered

MIB = 1024 * 1024
SLOTS = 16
SLOT_BYTES = MIB
FINAL = ("available", "error", "error_deleting", "error_extending", "error_restoring")

# What the first SLOTS MiB of a disk hold, one entry a slot: a byte that fills it, or a piece of the image.
Content = tuple[object, ...]
ZERO: Content = (0,) * SLOTS
IMAGE: Content = tuple(("image", slot) for slot in range(SLOTS))


@dataclass
class Volume:
    id: str
    size_gib: int
    # Several while the answer of a request that changes the content was lost.
    contents: list[Content]
    snapshots: list[tuple[str, list[Content], int]] = field(default_factory=list)
    # Newest last: (id, contents, size).
    backups: list[tuple[str, list[Content], int]] = field(default_factory=list)


class SharedImages:
    """A raw and a qcow2 image of SLOTS MiB that every client makes volumes from."""

    def __init__(self, server, cloud: Cloud, generator: random.Random, web_url: str):
        self.url = f"{web_url}/image.raw"
        self.data = generator.randbytes(SLOTS * SLOT_BYTES)
        self.raw_path = server.folder / "image.raw"
        self.raw_path.write_bytes(self.data)
        qcow2_path = server.folder / "image.qcow2"
        subprocess.run(
            ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(self.raw_path), str(qcow2_path)], check=True
        )
        self.rest = cloud.image()
        self.ids = {form: self._upload(form, path) for form, path in [("raw", self.raw_path), ("qcow2", qcow2_path)]}

    def _upload(self, form: str, path: Path) -> str:
        image = self.rest.ok("POST", "/images", {"name": form, "disk_format": form, "container_format": "bare"})
        data = path.read_bytes()
        self.rest.ok("PUT", f"/images/{image['id']}/file", data, content_type="application/octet-stream")
        return image["id"]

    def expected(self, content: Content) -> bytes:
        pieces = []
        for entry in content:
            if isinstance(entry, tuple):
                pieces.append(self.data[entry[1] * SLOT_BYTES : (entry[1] + 1) * SLOT_BYTES])
            else:
                pieces.append(bytes([entry]) * SLOT_BYTES)
        return b"".join(pieces)

    def delete(self) -> None:
        for image in self.ids.values():
            self.rest.ok("DELETE", f"/images/{image}")


class Client(threading.Thread):
    """One user of the cloud; `failure` says what went wrong, `done` counts what was done."""

    def __init__(self, number: int, server, cloud: Cloud, images: SharedImages, seed: int, stop: threading.Event):
        super().__init__(name=f"client-{number}", daemon=True)
        self.number = number
        self.server = server
        self.images = images
        self.random = random.Random(seed)
        self.stop = stop
        self.rest = cloud.volume()
        self.image_rest = cloud.image()
        self.volumes: list[Volume] = []
        self.own_images: list[tuple[str, str, list[Content]]] = []
        self.made = 0
        self.done: dict[str, int] = {}
        self.failure: str | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.one_action()
        except Exception:
            self.failure = f"{self.name}: {traceback.format_exc()}"

    def one_action(self) -> None:
        actions = [self.create_volume] * (3 if len(self.volumes) < 6 else 0)
        if self.volumes:
            actions += [
                self.write, self.write, self.create_snapshot, self.delete_snapshot, self.extend, self.revert,
                self.create_backup, self.restore_backup, self.delete_backup, self.upload_volume, self.upload_image,
                self.import_image, self.delete_image, self.delete_volume,
            ]
        action = self.random.choice(actions)
        if action():
            self.done[action.__name__] = self.done.get(action.__name__, 0) + 1

    # Requests ------------------------------------------------------------------------------

    def request(self, method: str, path: str, body=None) -> dict | None:
        """The body of an accepted request; `None` when the answer was lost. A refusal is a failure."""
        try:
            answer = self.rest.call(method, path, body)
        except Unanswered:
            return None
        assert answer.status in (200, 202, 204), f"{method} {path} {body}: {answer.status} {answer.body}"
        return answer.body or {}

    def create(self, collection: str, body: dict) -> str | None:
        """Creates a resource by a unique name; where the answer was lost, looks whether it is there."""
        key = collection.rstrip("s")
        self.made += 1
        name = f"{self.name}-{self.made}"
        answer = self.request("POST", f"/{collection}", {key: {"name": name, **body}})
        if answer is not None:
            return answer[key]["id"]
        found = self.rest.until(f"/{collection}?name={name}", lambda answer: answer.status == 200)
        rows = found.body[collection]
        return rows[0]["id"] if rows else None

    def settle(self, collection: str, identity: str) -> dict:
        """Waits for a final status, which must be `available`."""
        key = collection.rstrip("s")
        answer = self.rest.until(
            f"/{collection}/{identity}", lambda answer: answer.status != 200 or answer.body[key]["status"] in FINAL
        )
        assert answer.status == 200, f"{key} {identity} answered {answer.status}: {answer.body}"
        assert answer.body[key]["status"] == "available", f"{key} is {answer.body[key]}"
        return answer.body[key]

    def gone(self, collection: str, identity: str, accepted: bool) -> bool:
        """Waits until the resource is gone, or, where the answer was lost, is or is not deleted."""
        key = collection.rstrip("s")
        answer = self.rest.until(
            f"/{collection}/{identity}", lambda answer: answer.status == 404 or answer.body[key]["status"] in FINAL
        )
        assert answer.status == 404 or not accepted, f"{key} {identity} was not deleted: {answer.body}"
        assert answer.status == 404 or answer.body[key]["status"] == "available", answer.body
        return answer.status == 404

    # Volumes -------------------------------------------------------------------------------

    def create_volume(self) -> bool:
        body, contents, size_gib = self.random.choice(self.sources())
        identity = self.create("volumes", {"size": size_gib, **body})
        if identity is None:
            return False
        volume = self.settle("volumes", identity)
        assert volume["size"] == size_gib, volume
        self.volumes.append(Volume(identity, size_gib, list(contents)))
        return True

    def sources(self) -> list[tuple[dict, list[Content], int]]:
        sources: list[tuple[dict, list[Content], int]] = [
            ({}, [ZERO], 1),
            ({"imageRef": self.images.ids["raw"]}, [IMAGE], 1),
            ({"imageRef": self.images.ids["qcow2"]}, [IMAGE], self.random.choice([1, 2])),
        ]
        for identity, status, contents in self.own_images:
            # One that lost its data stays here, queued, until its delete was answered.
            if status == "active":
                sources.append(({"imageRef": identity}, contents, 3))
        for volume in self.volumes:
            sources.append(({"source_volid": volume.id}, volume.contents, volume.size_gib))
            for identity, contents, size_gib in volume.snapshots:
                sources.append(({"snapshot_id": identity}, contents, size_gib + self.random.choice([0, 1])))
            for identity, contents, size_gib in volume.backups:
                sources.append(({"backup_id": identity}, contents, size_gib))
        return sources

    def write(self) -> bool:
        """Fills a slot and flushes; a kill meanwhile leaves the slot's content open."""
        volume = self.random.choice(self.volumes)
        slot, pattern = self.random.randrange(SLOTS), self.random.randrange(1, 256)
        command = f"write -q -P {pattern} {slot * SLOT_BYTES} {SLOT_BYTES}"
        address = self.server.export(f"volume-{volume.id}")
        result = subprocess.run(["qemu-io", "-f", "raw", "-c", command, "-c", "flush", address], capture_output=True)
        changed = [content[:slot] + (pattern,) + content[slot + 1 :] for content in volume.contents]
        flushed = result.returncode == 0 and b"rror" not in result.stdout + result.stderr
        if flushed:
            volume.contents = changed
        else:
            # A torn slot matches neither content: write it again until the flush is acknowledged.
            self.rest.until(f"/volumes/{volume.id}", lambda answer: answer.status == 200)
            return self.rewrite(volume, changed, command)
        return True

    def rewrite(self, volume: Volume, changed: list[Content], command: str) -> bool:
        for _ in range(200):
            address = self.server.export(f"volume-{volume.id}")
            result = subprocess.run(["qemu-io", "-f", "raw", "-c", command, "-c", "flush", address], capture_output=True)
            if result.returncode == 0 and b"rror" not in result.stdout + result.stderr:
                volume.contents = changed
                return True
            self.rest.until(f"/volumes/{volume.id}", lambda answer: answer.status == 200, pause_s=0.05)
        raise AssertionError(f"cannot write to volume {volume.id}: {result.stdout}{result.stderr}")

    def extend(self) -> bool:
        volume = self.random.choice(self.volumes)
        answer = self.request("POST", f"/volumes/{volume.id}/action", {"os-extend": {"new_size": volume.size_gib + 1}})
        shown = self.settle("volumes", volume.id)
        allowed = [volume.size_gib + 1] if answer is not None else [volume.size_gib, volume.size_gib + 1]
        assert shown["size"] in allowed, f"extend to {volume.size_gib + 1}: {shown}"
        volume.size_gib = shown["size"]
        return True

    def delete_volume(self) -> bool:
        volume = self.random.choice(self.volumes)
        for identity, _, _ in list(volume.backups):
            if not self.remove_backup(volume):
                return False
        answer = self.request("DELETE", f"/volumes/{volume.id}?cascade=true")
        if self.gone("volumes", volume.id, answer is not None):
            self.volumes.remove(volume)
            return True
        return False

    # Snapshots -----------------------------------------------------------------------------

    def create_snapshot(self) -> bool:
        volume = self.random.choice(self.volumes)
        identity = self.create("snapshots", {"volume_id": volume.id})
        if identity is None:
            return False
        self.settle("snapshots", identity)
        volume.snapshots.append((identity, list(volume.contents), volume.size_gib))
        return True

    def delete_snapshot(self) -> bool:
        volumes = [volume for volume in self.volumes if volume.snapshots]
        if not volumes:
            return False
        volume = self.random.choice(volumes)
        snapshot = self.random.choice(volume.snapshots)
        answer = self.request("DELETE", f"/snapshots/{snapshot[0]}")
        if self.gone("snapshots", snapshot[0], answer is not None):
            volume.snapshots.remove(snapshot)
            return True
        return False

    def revert(self) -> bool:
        volumes = [volume for volume in self.volumes if volume.snapshots and volume.snapshots[-1][2] == volume.size_gib]
        if not volumes:
            return False
        volume = self.random.choice(volumes)
        identity, contents, _ = volume.snapshots[-1]
        answer = self.request("POST", f"/volumes/{volume.id}/action", {"revert": {"snapshot_id": identity}})
        self.settle("volumes", volume.id)
        self.settle("snapshots", identity)
        volume.contents = list(contents) if answer is not None else volume.contents + list(contents)
        return True

    # Backups -------------------------------------------------------------------------------

    def create_backup(self) -> bool:
        volume = self.random.choice(self.volumes)
        body = {"volume_id": volume.id, "incremental": bool(volume.backups)}
        identity = self.create("backups", body)
        if identity is None:
            self.settle("volumes", volume.id)
            return False
        self.settle("backups", identity)
        self.settle("volumes", volume.id)
        volume.backups.append((identity, list(volume.contents), volume.size_gib))
        return True

    def restore_backup(self) -> bool:
        volumes = [volume for volume in self.volumes if volume.backups]
        if not volumes:
            return False
        volume = self.random.choice(volumes)
        identity, contents, size_gib = self.random.choice(volume.backups)
        answer = self.request("POST", f"/backups/{identity}/restore", {"restore": {"volume_id": volume.id}})
        self.settle("backups", identity)
        shown = self.settle("volumes", volume.id)
        assert shown["size"] == volume.size_gib, shown
        volume.contents = list(contents) if answer is not None else volume.contents + list(contents)
        return True

    def delete_backup(self) -> bool:
        volumes = [volume for volume in self.volumes if volume.backups]
        return self.remove_backup(self.random.choice(volumes)) if volumes else False

    def remove_backup(self, volume: Volume) -> bool:
        """Deletes the newest backup: the others have dependents."""
        backup = volume.backups[-1]
        answer = self.request("DELETE", f"/backups/{backup[0]}")
        if self.gone("backups", backup[0], answer is not None):
            volume.backups.remove(backup)
            return True
        return False

    # Images --------------------------------------------------------------------------------

    def image_status(self, identity: str) -> str:
        """The final status of an image; `deleted` when it is gone."""
        answer = self.image_rest.until(
            f"/images/{identity}",
            lambda answer: answer.status == 404 or answer.body["status"] in ("active", "queued", "uploading", "killed"),
        )
        return "deleted" if answer.status == 404 else answer.body["status"]

    def image_record(self) -> str | None:
        """The id of a new image without data; `None` when it was not made."""
        self.made += 1
        name = f"{self.name}-{self.made}"
        try:
            body = {"name": name, "disk_format": "raw", "container_format": "bare"}
            return self.image_rest.ok("POST", "/images", body)["id"]
        except Unanswered:
            rows = self.image_rest.until(f"/images?name={name}", lambda answer: answer.status == 200).body["images"]
            return rows[0]["id"] if rows else None

    def image_request(self, method: str, path: str, body, content_type: str = "application/json") -> bool:
        """Whether the answer came; it must be of success."""
        try:
            answer = self.image_rest.call(method, path, body, content_type=content_type)
        except Unanswered:
            return False
        assert answer.status in (202, 204), f"{method} {path} answered {answer.status}: {answer.body}"
        return True

    def upload_image(self) -> bool:
        """Uploads image data; a kill in the middle leaves it queued, with nothing in the store."""
        if len(self.own_images) > 2:
            return False
        identity = self.image_record()
        if identity is None:
            return False
        accepted = self.image_request("PUT", f"/images/{identity}/file", self.images.data, "application/octet-stream")
        status = self.image_status(identity)
        assert status in (["active"] if accepted else ["active", "queued"]), f"image {identity} is {status}"
        self.own_images.append((identity, status, [IMAGE]))
        if status != "active":
            return self.remove_image(self.own_images[-1])
        return True

    def import_image(self) -> bool:
        """Imports what it staged, or what lies on the web. An accepted import ends well, whatever is killed."""
        if len(self.own_images) > 2:
            return False
        identity = self.image_record()
        if identity is None:
            return False
        self.own_images.append((identity, "queued", [IMAGE]))
        method = {"name": "web-download", "uri": self.images.url}
        if self.random.random() < 0.5:
            method = {"name": "glance-direct"}
            path = f"/images/{identity}/stage"
            if not self.image_request("PUT", path, self.images.data, "application/octet-stream"):
                return self.remove_image(self.own_images[-1])
        if not self.image_request("POST", f"/images/{identity}/import", {"method": method}):
            # It may run: then it is deleted in the middle.
            return self.remove_image(self.own_images[-1])
        status = self.image_status(identity)
        assert status == "active", f"image {identity} is {status} after its import"
        self.own_images[-1] = (identity, status, [IMAGE])
        return True

    def upload_volume(self) -> bool:
        if len(self.own_images) > 2 or len(self.volumes) < 2:
            return False
        volume = self.random.choice(self.volumes)
        if volume.size_gib > 3:
            return False
        self.made += 1
        name = f"{self.name}-{self.made}"
        body = {"image_name": name, "disk_format": "qcow2", "container_format": "bare"}
        self.request("POST", f"/volumes/{volume.id}/action", {"os-volume_upload_image": body})
        self.settle("volumes", volume.id)
        rows = self.image_rest.until(f"/images?name={name}", lambda answer: answer.status == 200).body["images"]
        if not rows:
            return False
        identity = rows[0]["id"]
        status = self.image_status(identity)
        self.own_images.append((identity, status, list(volume.contents)))
        if status != "active":
            # The image record was made, but the volume's flow was never accepted.
            return self.remove_image(self.own_images[-1])
        return True

    def give_up_images(self) -> None:
        """Deletes images whose upload or import was never accepted: what they staged goes with them."""
        for image in list(self.own_images):
            if self.image_status(image[0]) != "active":
                self.remove_image(image)

    def delete_image(self) -> bool:
        return self.remove_image(self.random.choice(self.own_images)) if self.own_images else False

    def remove_image(self, image: tuple[str, str, list[Content]]) -> bool:
        accepted = False
        try:
            answer = self.image_rest.call("DELETE", f"/images/{image[0]}")
            if answer.status == 409 and self.server.images_wait_for_clones:
                return False
            assert answer.status == 204, f"delete image answered {answer.status}: {answer.body}"
            accepted = True
        except Unanswered:
            pass
        status = self.image_status(image[0])
        assert status == "deleted" or not accepted, f"image {image[0]} is {status}"
        if status == "deleted":
            self.own_images.remove(image)
            return True
        return False

    # At the end ----------------------------------------------------------------------------

    def verify(self, name: str, contents: list[Content]) -> Content:
        """The disk must hold one of the contents; returns which."""
        path = self.server.folder / f"{self.name}.read"
        command = ["qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M", f"count={SLOTS}"]
        subprocess.run([*command, f"if={self.server.export(name)}", f"of={path}"], check=True, capture_output=True)
        data = path.read_bytes().ljust(SLOTS * SLOT_BYTES, b"\0")
        path.unlink()
        for content in contents:
            if data == self.images.expected(content):
                return content
        raise AssertionError(f"{name} holds none of its {len(contents)} possible contents")

    def verify_all(self) -> int:
        """Compares every volume and snapshot; returns how many."""
        verified = 0
        for volume in self.volumes:
            volume.contents = [self.verify(f"volume-{volume.id}", volume.contents)]
            verified += 1
            for identity, contents, _ in volume.snapshots:
                self.verify(f"volume-{volume.id}@snapshot-{identity}", contents)
                verified += 1
        return verified

    def delete_all(self) -> None:
        self.random.shuffle(self.volumes)
        while self.volumes:
            volume = self.volumes[-1]
            # The audit restarted the server: the first answer on a kept connection may be lost.
            while volume.backups:
                self.remove_backup(volume)
            accepted = self.request("DELETE", f"/volumes/{volume.id}?cascade=true") is not None
            if self.gone("volumes", volume.id, accepted):
                self.volumes.pop()

    def delete_images(self) -> None:
        """To call when the volumes of all clients have gone."""
        while self.own_images:
            self.remove_image(self.own_images[-1])
