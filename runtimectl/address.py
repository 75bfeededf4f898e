"""Where a daemon listens, as a URL and as a socket."""

import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from runtimectl.errors import UsageProblem

LOOPBACK = ("127.0.0.1", "::1")
ACCEPTED = "http://HOST:PORT or unix:PATH"


class Address(NamedTuple):
    """A daemon's listener: a host and a port, or the path of a Unix socket, and the token it wants.

    Without a token, `sought` says where one was looked for.
    """

    url: str
    host: str
    port: int
    path: str | None
    token: str | None = None
    sought: str = ""

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
        return self.port == other.port and (
            self.host == other.host or (self.host == "localhost" and other.host in LOOPBACK)
        )

    def open(self, timeout: float) -> socket.socket:
        """A connected socket. Raises OSError."""
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
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query or parts.fragment or "@" in url:
        raise _unknown(url)
    return Address(url, host, 80 if port is None else port, None)


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
