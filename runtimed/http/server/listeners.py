"""The sockets that a daemon listens on: TCP, Unix, or passed by systemd."""

import contextlib
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from runtimed.errors import ConfigurationError
from runtimed.http.errors import ListenFailed

BACKLOG = 1_024
SYSTEMD_FIRST_FD = 3
MAX_PASSED = 64
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+)?:([0-9]{1,5})", re.ASCII)
ADDRESS_RULE = "expected HOST:PORT, :PORT or unix:PATH"
LOOPBACK = "127.0.0.1"
MAX_PATH_BYTES = 107
"""The longest path of a Unix socket: the kernel has room for one more byte, the NUL at its end."""

OPEN = {
    "listen": (
        "other machines can reach this address, and it has no TLS: set tls_cert and tls_key (--tls-cert, --tls-key),"
        " or insecure_listen (--insecure-listen) if something in front of it has TLS"
    ),
    "listen_metrics": (
        "other machines can reach this address, and metrics have no TLS and no token: set insecure_listen"
        " (--insecure-listen) if they are not secret in this network, or something in front of it has TLS"
    ),
}
"""Why an address that other machines can reach is refused, by its setting."""

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 what a client dials instead


@attrs.frozen
class Address:
    """Where to listen: a host and a port (0 for any free one), or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str, setting: str = "listen") -> "Address":
        """Return the address of a text: `HOST:PORT`, `:PORT` on loopback, or `unix:PATH`.

        Args:
            text: The text.
            setting: What the address is for, in the error.

        Raises:
            ConfigurationError: The text is not an address.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=_socket_path(text.removeprefix("unix:"), setting))
        match = ADDRESS.fullmatch(text)
        if match is None or int(match[2]) > 65_535:
            raise ConfigurationError(f"{setting}: {text!r}: {ADDRESS_RULE}")
        return cls((match[1] or LOOPBACK).strip("[]"), int(match[2]))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check_closed(self, setting: str = "listen") -> None:
        """Check that no other machine can reach the address. Blocks while a name is resolved.

        Args:
            setting: What the address is for, in the error.

        Raises:
            ConfigurationError: Other machines can. An address that does not exist is for `Listeners.open` to refuse.
        """
        if not self.path:
            with contextlib.suppress(socket.gaierror):
                family, _, _, _, name = _resolve(self)
                _check_closed(setting, family, name, str(self))


class Listeners:
    """The bound sockets, until `close`, which also removes the files of Unix sockets that were bound here."""

    def __init__(
        self, sockets: Sequence[socket.socket], addresses: Sequence[Address] = (), *, has_tls: bool = False
    ) -> None:
        self.sockets = sockets
        self._scheme = "https" if has_tls else "http"
        self._addresses = addresses
        self._own_paths = [address.path for address in addresses if address.path]

    @classmethod
    def open(
        cls,
        addresses: Sequence[Address],
        passed: Sequence[socket.socket] = (),
        *,
        has_tls: bool = False,
        insecure: bool = False,
        setting: str = "listen",
    ) -> "Listeners":
        """Take the sockets that were passed, or bind the addresses if there are none.

        Args:
            addresses: Where to listen.
            passed: Listening sockets.
            has_tls: Whether TCP connections are served with TLS.
            insecure: Accept addresses without TLS that other machines can reach.
            setting: What the addresses are for, in the error.

        Raises:
            ListenFailed: An address cannot be listened on.
            ConfigurationError: Other machines can reach an address without TLS.
        """
        if passed:
            found = cls(passed, has_tls=has_tls)
            if not (has_tls or insecure):
                found.check_closed(setting)
            return found
        with contextlib.ExitStack() as undo:
            bound: list[socket.socket] = []
            for address in addresses:
                sock = _bind(address)
                undo.callback(cls([sock], [address]).close)
                bound.append(sock)
            found = cls(bound, addresses, has_tls=has_tls)
            if not (has_tls or insecure):
                found.check_closed(setting)
            undo.pop_all()
        return found

    @property
    def hosts(self) -> list[str]:
        """The configured host names, each with the port that was bound, in the form of a Host header."""
        return [
            f"{f'[{address.host}]' if ':' in address.host else address.host}:{sock.getsockname()[1]}"
            for address, sock in zip(self._addresses, self.sockets, strict=False)
            if address.host
        ]

    @property
    def urls(self) -> list[str]:
        """The URL at which a client on this host reaches each socket."""
        return [_url(sock, WILDCARDS, self._scheme) for sock in self.sockets]

    @property
    def bound_urls(self) -> list[str]:
        """The URL of each socket as it is bound, wildcards included."""
        return [_url(sock, {}, self._scheme) for sock in self.sockets]

    def close(self) -> None:
        """Close the sockets. May be called again."""
        for path in self._own_paths:
            Path(path).unlink(missing_ok=True)
        self._own_paths = []
        for sock in self.sockets:
            sock.close()

    def check_closed(self, setting: str = "listen") -> None:
        """Check that no other machine can reach the sockets. Raises ConfigurationError if one can."""
        for sock, url in zip(self.sockets, self.bound_urls, strict=True):
            _check_closed(setting, sock.family, sock.getsockname(), url.partition("://")[2])


def _socket_path(text: str, setting: str) -> str:
    path = str(Path(text).absolute())
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigurationError(f"{setting}: unix:{path}: expected a path of at most {MAX_PATH_BYTES} bytes")
    return path


def _check_closed(setting: str, family: int, name: Any, shown: str) -> None:
    """Raise ConfigurationError if other machines can reach a socket with this address."""
    if family == socket.AF_UNIX:
        return
    is_closed = False
    if family in {socket.AF_INET, socket.AF_INET6}:
        found = ipaddress.ip_address(name[0].partition("%")[0])
        is_closed = (getattr(found, "ipv4_mapped", None) or found).is_loopback
    if not is_closed:
        raise ConfigurationError(f"{setting}: {shown}: {OPEN[setting]}")


def _url(sock: socket.socket, dialed: Mapping[str, str], scheme: str) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[0], name[1]
    shown = dialed.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{shown}:{port}"


def _bind(address: Address) -> socket.socket:
    try:
        return _bind_unix(Path(address.path)) if address.path else _bind_tcp(address)
    except OSError as error:
        raise ListenFailed(str(address), error.strerror or str(error)) from error


def _resolve(address: Address) -> tuple[Any, ...]:
    """Return the first result of getaddrinfo. Raises OSError without one."""
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)[0]


def _bind_tcp(address: Address) -> socket.socket:
    family, kind, protocol, _, name = _resolve(address)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _bind_unix(path: Path) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a killed daemon. A socket that answers, and any other file, stays."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def passed_by_systemd() -> list[socket.socket]:
    """Return the sockets of sd_listen_fds(3), and remove its variables so that no child process uses them.

    Call this before anything else opens a file.

    Raises:
        ListenFailed: A descriptor that was passed is not a listening stream socket.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_adopt(SYSTEMD_FIRST_FD + index) for index in range(min(int(count), MAX_PASSED))]


def _adopt(descriptor: int) -> socket.socket:
    name = f"the descriptor {descriptor} of LISTEN_FDS"
    try:
        sock = socket.socket(fileno=descriptor)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenFailed(name, error.strerror or str(error)) from error
    if not listening:
        raise ListenFailed(name, "expected a listening stream socket")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
