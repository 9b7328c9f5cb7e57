"""A writer that knows what must survive a crash: each block carries a number that only grows.

After a crash a block must hold a number at least that of its last write before the last
acknowledged flush, and at most the last one that was sent; and a block is whole or as before.
"""

import hashlib
import random

from .nbd_client import NbdClient, NbdError

BLOCK = 4096
BLOCKS = 2048


def block(place: int, number: int) -> bytes:
    """The content of a block: its place, its number, and bytes that follow from both."""
    head = place.to_bytes(8) + number.to_bytes(8)
    return head + hashlib.shake_128(head).digest(BLOCK - len(head))


class Writer:
    """Writes and flushes one volume until the server is gone."""

    def __init__(self, server, export: str, seed: int):
        self.server, self.export = server, export
        self.random = random.Random(seed)
        self.number = 0
        # place -> number
        self.sent: dict[int, int] = {}
        self.flushed: dict[int, int] = {}
        self.writes = self.flushes = self.checked = 0

    def run(self) -> None:
        acknowledged: dict[int, int] = {}
        try:
            client = NbdClient(self.server.data / "nbd.sock", self.export)
            while True:
                for _ in range(self.random.randrange(1, 60)):
                    place = self.random.randrange(BLOCKS)
                    self.number += 1
                    self.sent[place] = self.number
                    client.write(place * BLOCK, block(place, self.number))
                    acknowledged[place] = self.number
                    self.writes += 1
                client.flush()
                self.flushed |= acknowledged
                self.flushes += 1
        except (OSError, NbdError):
            # The server was killed, or was about to.
            pass

    def check(self) -> None:
        """Compares every block; what is there now is what later writes start from."""
        client = NbdClient(self.server.data / "nbd.sock", self.export)
        for place in range(BLOCKS):
            data = client.read(place * BLOCK, BLOCK)
            number = int.from_bytes(data[8:16])
            least, most = self.flushed.get(place, 0), self.sent.get(place, 0)
            whole = data == bytes(BLOCK) if number == 0 else data == block(place, number)
            assert whole, f"{self.export}, block {place}: torn or foreign data"
            assert least <= number <= most, f"{self.export}, block {place}: holds write {number}, expected {least} to {most}"
            self.sent[place] = number
            self.checked += 1
        client.flush()
        self.flushed = dict(self.sent)
        client.close()
