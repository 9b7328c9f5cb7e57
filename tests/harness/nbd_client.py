"""A small NBD client that can also say what no real client would. Simple replies, one request at a time."""

import socket
import struct
from pathlib import Path

OPTION_MAGIC = b"IHAVEOPT"
REQUEST_MAGIC = 0x25609513
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED_REPLY, EXTENDED_HEADERS = 1, 2, 3, 6, 7, 8, 11
ENOSPC = 28


class NbdError(Exception):
    """The server answered with an errno."""

    def __init__(self, errno: int):
        super().__init__(f"NBD error {errno}")
        self.errno = errno


class NbdClient:
    """A connection to a Unix socket, or to a host and port; `export` is opened unless it is None."""

    def __init__(self, place: Path | tuple[str, int], export: str | None = None, timeout_s: float = 60):
        self.socket = socket.socket(socket.AF_INET if isinstance(place, tuple) else socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(place if isinstance(place, tuple) else str(place))
        self.size = 0
        if export is not None:
            self.greet()
            self.go(export)

    def greet(self) -> None:
        greeting = self.exactly(18)
        assert greeting.startswith(b"NBDMAGICIHAVEOPT"), greeting
        self.socket.sendall(struct.pack(">I", 3))

    def go(self, export: str) -> None:
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(option(GO, data))
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.exactly(20))
            body = self.exactly(length)
            if kind >> 31:
                raise NbdError(kind)
            if kind == 3 and body[:2] == b"\0\0":
                self.size = struct.unpack(">Q", body[2:10])[0]
            if kind == 1:
                return

    def exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the server closed the connection")
            data += piece
        return data

    def request(self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0, reply: int = 0) -> bytes:
        """Sends one request and waits for its reply of `reply` bytes."""
        self.socket.sendall(request(command, offset, length, flags) + payload)
        magic, error, _ = struct.unpack(">IIQ", self.exactly(16))
        assert magic == 0x67446698, hex(magic)
        if error:
            raise NbdError(error)
        return self.exactly(reply)

    def read(self, offset: int, length: int) -> bytes:
        return self.request(READ, offset, length, reply=length)

    def write(self, offset: int, data: bytes) -> None:
        self.request(WRITE, offset, len(data), data)

    def flush(self) -> None:
        self.request(FLUSH)

    def is_closed(self, timeout_s: float) -> bool:
        """Whether the server closes within this time."""
        self.socket.settimeout(timeout_s)
        try:
            while self.socket.recv(65536):
                pass
            return True
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self.socket.close()


def option(number: int, data: bytes, claimed: int | None = None) -> bytes:
    """An option; `claimed` is what it says its length is."""
    return OPTION_MAGIC + struct.pack(">II", number, len(data) if claimed is None else claimed) + data


def request(command: int, offset: int, length: int, flags: int = 0, cookie: int = 7) -> bytes:
    return struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length)
