"""The address of a daemon: parsed from a URL, opened as a socket."""

import re
import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from runtimectl.client.tls import TlsOptions
from runtimectl.errors import UsageProblem

LOOPBACK = ("127.0.0.1", "::1")
ACCEPTED = "http://HOST:PORT, https://HOST[:PORT] (each with a path if the API is below one) or unix:PATH"
PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """The address of a daemon, and the token to send to it.

    Attributes:
        url: The URL as it was given.
        host: The name or IP address of the host.
        port: The TCP port; 0 for a Unix socket.
        path: The path of a Unix socket, or None for TCP.
        token: The token, or None if none was found.
        searched: The places that were searched for a token without finding one; empty if there is a token.
        prefix: The path below which a proxy serves the API, without a slash at its end.
        tls: Connect with TLS, and verify the host's name.
        tls_options: How the host is verified, and the client's own certificate.
        has_given_token: The user gave the token. False for one from an endpoint file, which is valid only for the
            process that the file names.
    """

    url: str
    host: str
    port: int
    path: str | None
    token: str | None = None
    searched: str = ""
    prefix: str = ""
    tls: bool = False
    tls_options: TlsOptions = TlsOptions()
    has_given_token: bool = False

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def matches(self, other: "Address") -> bool:
        """Whether both addresses are the same; `localhost` is the same as a loopback address."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        return (self.port, self.prefix, self.tls) == (other.port, other.prefix, other.tls) and (
            self.host == other.host or (self.host == "localhost" and other.host in LOOPBACK)
        )

    def connect(self, timeout: float) -> socket.socket:
        """Open a socket.

        Args:
            timeout: How long to wait for the connection, in seconds; also the timeout of the socket.

        Raises:
            OSError: The connection failed.
            UsageProblem: A file of `tls_options` cannot be used.
        """
        if self.tls:
            return self._connect_tls(timeout)
        if self.path is None:
            return socket.create_connection((self.host, self.port), timeout)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_tls(self, timeout: float) -> socket.socket:
        context = self.tls_options.make_context()
        plain = socket.create_connection((self.host, self.port), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # The request follows the end of the handshake.
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def __repr__(self) -> str:
        return f"Address({self.url!r})"


def parse(url: str) -> Address:
    """Parse a URL.

    Args:
        url: A URL in one of the forms of ACCEPTED, or http+unix://PATH with a percent-encoded path.

    Raises:
        UsageProblem: The URL has another form.
    """
    path = _socket_path(url)
    if path is not None:
        return Address(url, "localhost", 0, path)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _invalid(url) from None
    prefix = parts.path.rstrip("/")
    is_known = parts.scheme in PORTS and PREFIX.fullmatch(prefix)
    if not is_known or not host or parts.query or parts.fragment or "@" in url:
        raise _invalid(url)
    port = PORTS[parts.scheme] if port is None else port
    return Address(url, host, port, None, prefix=prefix, tls=parts.scheme == "https")


def _socket_path(url: str) -> str | None:
    for prefix in ("http+unix://", "unix://", "unix:"):
        if url.startswith(prefix):
            path = unquote(url.removeprefix(prefix)) if prefix.startswith("http") else url.removeprefix(prefix)
            if not path or "\0" in path:
                raise _invalid(url)
            return path
    return None


def _invalid(url: str) -> UsageProblem:
    return UsageProblem(f"url: expected {ACCEPTED}, got {url!r}")
