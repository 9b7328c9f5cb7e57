"""A TLS end in front of a plain HTTP server on loopback, with a certificate of its own."""

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from . import prepare


class TlsEnd:
    """Takes TLS connections and passes their bytes on; ends with the process."""

    def __init__(self, folder: Path, to_port: int):
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        prepare.apt({"openssl": "openssl"})
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", str(key), "-out", str(self.certificate)],
            check=True, capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(context, to_port), daemon=True).start()

    def _accept(self, context: ssl.SSLContext, to_port: int) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(context, client, to_port), daemon=True).start()

    @staticmethod
    def _serve(context: ssl.SSLContext, client: socket.socket, to_port: int) -> None:
        try:
            outside = context.wrap_socket(client, server_side=True)
            inside = socket.create_connection(("127.0.0.1", to_port))
        except OSError:
            client.close()
            return
        for source, target in [(outside, inside), (inside, outside)]:
            threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
