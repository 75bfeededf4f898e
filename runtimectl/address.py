"""Where a daemon listens, as a URL and as a socket."""

import re
import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from runtimectl.errors import UsageProblem

LOOPBACK = ("127.0.0.1", "::1")
ACCEPTED = "http://HOST:PORT, https://HOST[:PORT] (both with a path where the API is below one) or unix:PATH"
PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """A daemon's listener: a host and a port, or the path of a Unix socket, and the token it wants.

    Without a token, `sought` says where one was looked for. `has_given_token` is False too where the token is that of
    an endpoint file: it belongs to the process that the file names. `prefix` is the path below which a proxy has the
    API.
    With `tls` the host has to prove its name, by the certificates in the file `ca` or by those of the system.
    """

    url: str
    host: str
    port: int
    path: str | None
    token: str | None = None
    sought: str = ""
    prefix: str = ""
    tls: bool = False
    ca: str | None = None
    has_given_token: bool = False

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def leads_to(self, other: "Address") -> bool:
        """Whether this is the other address, or names its port on loopback as localhost."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        return (self.port, self.prefix, self.tls) == (other.port, other.prefix, other.tls) and (
            self.host == other.host or (self.host == "localhost" and other.host in LOOPBACK)
        )

    def open(self, timeout: float) -> socket.socket:
        """A connected socket. Raises OSError, and UsageProblem for a `ca` that is none."""
        if self.tls:
            return self._open_tls(timeout)
        if self.path is None:
            return socket.create_connection((self.host, self.port), timeout)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(timeout)
            made.connect(self.path)
        except BaseException:
            made.close()
            raise
        return made

    def _open_tls(self, timeout: float) -> socket.socket:
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise UsageProblem(f"--ca: {self.ca}: expected certificates in PEM; {error.strerror or error}") from None
        plain = socket.create_connection((self.host, self.port), timeout)
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def __repr__(self) -> str:
        return f"Address({self.url!r})"


def parse(url: str) -> Address:
    """The address that a URL names. Raises UsageProblem for any other form than ACCEPTED or http+unix://PATH."""
    path = _socket_path(url)
    if path is not None:
        return Address(url, "localhost", 0, path)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _unknown(url) from None
    prefix = parts.path.rstrip("/")
    known = parts.scheme in PORTS and PREFIX.fullmatch(prefix)
    if not known or not host or parts.query or parts.fragment or "@" in url:
        raise _unknown(url)
    port = PORTS[parts.scheme] if port is None else port
    return Address(url, host, port, None, prefix=prefix, tls=parts.scheme == "https")


def _socket_path(url: str) -> str | None:
    for prefix in ("http+unix://", "unix://", "unix:"):
        if url.startswith(prefix):
            path = unquote(url.removeprefix(prefix)) if prefix.startswith("http") else url.removeprefix(prefix)
            if not path or "\0" in path:
                raise _unknown(url)
            return path
    return None


def _unknown(url: str) -> UsageProblem:
    return UsageProblem(f"url: expected {ACCEPTED}, got {url!r}")
