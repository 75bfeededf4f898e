"""Certificates for tests, made by openssl."""

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

OWN_NAMES = "DNS:localhost,IP:127.0.0.1,IP:::1"
OF_AUTHORITIES = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
OF_SERVERS = (
    "basicConstraints=critical,CA:FALSE\n"
    "keyUsage=critical,digitalSignature\n"
    "subjectKeyIdentifier=hash\n"
    "authorityKeyIdentifier=keyid\n"
)
"""Python 3.13 refuses certificates without these extensions."""

EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Certificate(NamedTuple):
    """The files of a certificate and its key (mode 0600)."""

    cert: Path
    key: Path


class Authority:
    """An authority of the tests, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl")
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.own = Certificate(folder / "ca.pem", folder / "ca.key")
        self.ca = self.own.cert
        _openssl("req", "-x509", *EC_KEY, "-days", "2", "-subj", "/CN=authority", *OF_AUTHORITIES, *_to(self.own))
        self.own.key.chmod(0o600)

    def issue(self, name: str, names: str = OWN_NAMES, days: int = 2) -> Certificate:
        """Make a certificate for these names. With days below 0 it has expired."""
        made = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        _openssl("req", "-new", *EC_KEY, "-subj", f"/CN={name}", "-out", str(request), "-keyout", str(made.key))
        made.key.chmod(0o600)
        extensions.write_text(f"{OF_SERVERS}subjectAltName={names}\n")
        signing = ("-CA", str(self.ca), "-CAkey", str(self.own.key), "-CAcreateserial", "-days", str(days))
        _openssl("x509", "-req", "-in", str(request), *signing, "-extfile", str(extensions), "-out", str(made.cert))
        return made

    def client_context(self, certificate: Certificate | None = None) -> ssl.SSLContext:
        """Return how a client that trusts this authority connects, with a certificate of its own if one is given."""
        context = ssl.create_default_context(cafile=self.ca)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def _to(made: Certificate) -> tuple[str, ...]:
    return "-out", str(made.cert), "-keyout", str(made.key)


def _openssl(*args: str) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)
