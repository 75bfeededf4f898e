"""Two certificates of the daemon's address, of which one is in use. Rotating them gives the daemon the other one."""

import ssl
import subprocess
from itertools import cycle
from pathlib import Path

from benchmarks.soak.files import replace

EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
DAYS = 100
"""How long they are valid: more than the longest soak takes."""


class Certificates:
    """The files of the daemon, and the one by which clients verify it. Needs openssl.

    Attributes:
        cert: The certificate in use.
        key: Its key.
        ca: Both certificates.
    """

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.ca = folder / "server.pem", folder / "server.key", folder / "ca.pem"
        made = [_make(folder, name) for name in ("one", "other")]
        self.ca.write_text("".join(cert.read_text() for cert, _ in made))
        self._next = cycle(made)
        self.rotate()

    def rotate(self) -> bytes:
        """Put the other certificate into use, and return it as DER. The daemon serves it after a reload."""
        cert, key = next(self._next)
        replace(self.key, key.read_text())
        replace(self.cert, cert.read_text())
        return ssl.PEM_cert_to_DER_cert(cert.read_text())


def _make(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a new self-signed certificate and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    extensions = ("subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign")
    options = [option for extension in extensions for option in ("-addext", extension)]
    subject = ("-subj", f"/CN={name}", "-days", str(DAYS))
    command = ["openssl", "req", "-x509", *EC_KEY, *subject, *options, "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
