"""Certificates for TLS tests: an authority, a server and clients, laid out as QEMU wants them."""

from pathlib import Path

from .disk import tool


def authority(folder: Path, name: str) -> Path:
    """A new authority in a folder of its own."""
    folder.mkdir()
    tool("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", str(folder / "ca-key.pem"), "-out", str(folder / "ca-cert.pem"))
    return folder


def issue(ca: Path, folder: Path, role: str, name: str) -> Path:
    """A certificate of `role` (server or client) for `name`, with the authority's beside it."""
    folder.mkdir(exist_ok=True)
    key, request = folder / f"{role}-key.pem", folder / f"{role}.csr"
    extensions = folder / f"{role}.ext"
    extensions.write_text(
        f"subjectAltName=DNS:{name},IP:127.0.0.1\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage={role}Auth\nbasicConstraints=critical,CA:false\n"
    )
    tool("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
    tool("openssl", "x509", "-req", "-days", "2", "-in", str(request), "-CA", str(ca / "ca-cert.pem"), "-CAkey", str(ca / "ca-key.pem"),
         "-CAcreateserial", "-extfile", str(extensions), "-out", str(folder / f"{role}-cert.pem"))
    (folder / "ca-cert.pem").write_bytes((ca / "ca-cert.pem").read_bytes())
    return folder
