"""A web server on loopback: where images are imported from."""

import http.server
import sys
import threading
from functools import partial
from pathlib import Path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each request."""

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Says nothing when a client that was killed takes no more."""

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class WebServer:
    """Serves a folder in a thread of its own; as a context manager it ends by itself."""

    def __init__(self, folder: Path):
        handler = partial(Quiet, directory=str(folder))
        self.server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "WebServer":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
