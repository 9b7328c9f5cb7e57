"""Clients that no protocol wants: garbage, huge lengths, half requests, silence.

None may cost the server more than its connection: afterwards the process must have about the
memory and exactly the open files that it had before, and serve others meanwhile.
"""

import os
import random
import socket
import struct
import time
from pathlib import Path

from . import nbd_client as nbd
from .nbd_client import NbdClient, option, request

# What the allocator and warm caches may keep.
MEMORY_MAY_GROW_MIB = 48
HOLDERS = 39
# What one connection may keep whose client takes no replies.
CONNECTION_MAY_KEEP_MIB = 32
# A client that claimed more than it sent waits for the server, which waits for it.
PATIENCE_S = 0.15


def attack(server, export: str, seconds: float, seed: int, stall_timeout_s: float) -> str:
    generator = random.Random(seed)
    path = server.data / "nbd.sock"
    clients = 0
    warm_up(path, export, generator)
    files, memory = open_files(server), server.resident_mib()
    clients += half_requests(server, path, export, memory, stall_timeout_s)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        conversation(path, export, generator)
        clients += 1
        if clients % 50 == 0:
            healthy(path, export)
    healthy(path, export)
    deadline = time.monotonic() + 10
    while (now := open_files(server)) > files and time.monotonic() < deadline:
        time.sleep(0.05)
    assert now <= files, f"{now} open files, {files} before"
    grown = server.resident_mib() - memory
    assert grown < MEMORY_MAY_GROW_MIB, f"{grown:.0f} MiB more memory"
    return f"{clients} broken clients, memory {grown:+.1f} MiB, {now} open files"


def warm_up(path: Path, export: str, generator: random.Random) -> None:
    for _ in range(50):
        conversation(path, export, generator)
    client = NbdClient(path, export)
    for _ in range(8):
        client.read(0, 32 << 20)
    client.close()


def open_files(server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def healthy(path: Path, export: str) -> None:
    client = NbdClient(path, export)
    client.read(0, 4096)
    client.close()


def half_requests(server, path: Path, export: str, memory: float, stall_timeout_s: float) -> int:
    """Many clients that announce 32 MiB each and send nothing, and silent ones: no memory, and an end."""
    held = []
    for number in range(HOLDERS):
        client = NbdClient(path, export)
        half = request(nbd.WRITE, 0, 32 << 20) + bytes(1000)
        client.socket.sendall([half, half[:13], request(nbd.READ, 0, 32 << 20) * 40][number % 3])
        held.append(client)
    silent = [NbdClient(path) for _ in range(10)]
    time.sleep(0.3)
    healthy(path, export)
    grown = server.resident_mib() - memory
    most = HOLDERS // 3 * CONNECTION_MAY_KEEP_MIB + MEMORY_MAY_GROW_MIB
    assert grown < most, f"{grown:.0f} MiB more memory while {HOLDERS} clients are stuck"
    began = time.monotonic()
    for client, number in zip(held, range(HOLDERS)):
        # Those that read nothing are not read here either, or they would not be stuck.
        if number % 3 != 2:
            assert client.is_closed(stall_timeout_s * 3 + 5), "a client that stopped in the middle was kept"
    time.sleep(max(0.0, stall_timeout_s * 1.6 - (time.monotonic() - began)))
    for client in held + silent:
        client.close()
    return len(held) + len(silent)


def conversation(path: Path, export: str, generator: random.Random) -> None:
    """One client; it ends with the server closing or with the client's patience."""
    client = NbdClient(path, timeout_s=PATIENCE_S)
    try:
        if generator.random() < 0.1:
            client.socket.sendall(generator.randbytes(generator.randrange(1, 5000)))
        else:
            client.greet()
            for _ in range(generator.randrange(4)):
                client.socket.sendall(some_option(generator, export))
            if generator.random() < 0.6:
                drain(client)
                client.go(export)
            for _ in range(generator.randrange(20)):
                client.socket.sendall(some_request(generator))
        if generator.random() < 0.5:
            client.socket.shutdown(socket.SHUT_WR)
            drain(client)
    except (OSError, nbd.NbdError, struct.error, ConnectionError):
        pass
    finally:
        client.close()


def drain(client: NbdClient) -> None:
    client.socket.settimeout(0.02)
    try:
        while client.socket.recv(1 << 20):
            pass
    except TimeoutError:
        pass
    client.socket.settimeout(PATIENCE_S)


def some_option(generator: random.Random, export: str) -> bytes:
    number = generator.choice([1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, generator.getrandbits(32)])
    name = generator.choice([export.encode(), b"", b"x" * 5000, generator.randbytes(20)])
    data = generator.choice([
        b"", name, struct.pack(">I", len(name)) + name + struct.pack(">H", 0),
        struct.pack(">I", generator.getrandbits(32)) + name, struct.pack(">I", len(name)) + name + struct.pack(">I", generator.getrandbits(32)),
        generator.randbytes(generator.randrange(300)),
    ])
    claimed = generator.choice([None, None, None, 0, 1 << 16, 0xFFFFFFFF])
    return option(number, data, claimed)


def some_request(generator: random.Random) -> bytes:
    """Never a change of data: the volume's content is compared afterwards."""
    length = generator.choice([0, 1, 4096, 1 << 20, (32 << 20) + 1, 0xFFFFFFFF, generator.getrandbits(32)])
    offset = generator.choice([0, 1, 1 << 30, (1 << 64) - 1, generator.getrandbits(40)])
    command = generator.choice([nbd.READ, nbd.FLUSH, nbd.CACHE, nbd.BLOCK_STATUS, 8, 9, 0xFFFF])
    flags = generator.choice([0, 0, 0, 1, 4, 8, generator.getrandbits(16)])
    if generator.random() < 0.2:
        # Past the end of any volume.
        return request(nbd.WRITE, 1 << 60, 4096) + bytes(generator.choice([4096, 100]))
    if generator.random() < 0.1:
        return generator.randbytes(generator.randrange(1, 100))
    return request(command, offset, length, flags)
