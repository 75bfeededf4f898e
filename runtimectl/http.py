"""A small HTTP/1.1 client, because importing `http.client` takes a fifth of the time of a short command."""

import select
import socket
from contextlib import suppress
from typing import NamedTuple

from runtimectl.address import Address
from runtimectl.errors import DaemonFailed, TimedOut, Unreachable
from runtimed.wire import routes

TIMEOUT_S = 60.0
SILENCE_S = 1.0
"""After this long without an answer, the client checks that the daemon's process is still there."""

MAX_RESPONSE_BYTES = 256 << 20
MAX_HEAD_BYTES = 64 << 10
CHUNK_BYTES = 1 << 18
END = b"\r\n\r\n"
NO_CONTENT = 204


class Response(NamedTuple):
    """The response to a request; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Head(NamedTuple):
    """The head of a response: its status and headers, and its size with the empty line at its end."""

    version: str
    status: int
    headers: dict[str, str]
    size: int


class Exchanges:
    """Sends requests to a daemon, one at a time, and keeps the connection open between them."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._kept: socket.socket | None = None

    def exchange(self, method: str, path: str, body: bytes | None = None, *, timeout: float = TIMEOUT_S) -> Response:
        """Send a request and return the response.

        Args:
            method: The method.
            path: The path below the prefix of the address, with its query.
            body: JSON, or None for no body.
            timeout: How long the daemon may be silent, in seconds.

        Raises:
            Unreachable: The daemon cannot be reached, or broke off.
            TimedOut: The daemon was silent for too long.
            DaemonFailed: The answer is no HTTP, or too large.
        """
        check_there(self._address)
        request = _request(self._address, method, path, body)
        kept = self._take()
        try:
            received = b"" if kept is None else self._send(kept, request, timeout, retries=method == "GET")
            if not received and (kept is None or method == "GET"):
                received = self._send(self._address.open(timeout), request, timeout)
        except TimeoutError:
            raise TimedOut(f"{self._address.url} did not answer within {timeout:g} s") from None
        except OSError as error:
            raise Unreachable(f"cannot reach {self._address.url}: {error.strerror or error}") from None
        if not received:
            raise Unreachable(f"cannot reach {self._address.url}: it closed the connection without an answer")
        return _response(self._address, received)

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def __del__(self) -> None:
        self.close()

    def _take(self) -> socket.socket | None:
        """Return the kept connection, unless the daemon has closed it or sent what nobody asked for."""
        kept, self._kept = self._kept, None
        if kept is not None and select.select([kept], [], [], 0)[0]:
            kept.close()
            return None
        return kept

    def _send(self, connection: socket.socket, request: bytes, timeout: float, *, retries: bool = False) -> bytes:
        """Return all bytes of the answer; none if the daemon closed the connection, or reset one that is retried."""
        try:
            connection.settimeout(timeout)
            # A refusal may arrive before the whole body is sent; it can be read although sending fails.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            received = _beginning(self._address, connection, timeout)
            is_reusable = _receive_rest(connection, received)
        except ConnectionResetError:
            connection.close()
            if not retries:
                raise
            return b""
        except BaseException:
            connection.close()
            raise
        if is_reusable:
            self._kept = connection
        else:
            connection.close()
        return bytes(received)


def check_there(address: Address) -> None:
    """Check that the process of the daemon that served at this address still runs. Sends no token.

    A token that was given for the address may be that of another daemon, which answers there by now.

    Raises:
        Unreachable: The process is gone.
    """
    from runtimectl.discovery import gone

    pid = gone(address)
    if pid is not None and not (address.has_given_token and _answers(address._replace(token=None))):
        raise Unreachable(f"cannot reach {address.url}: process {pid} that served it is gone")


def _answers(address: Address) -> bool:
    try:
        with address.open(SILENCE_S) as connection:
            connection.sendall(_request(address, "GET", routes.RUNTIME, None))
            return bool(connection.recv(1))
    except OSError:
        return False


def _request(address: Address, method: str, path: str, body: bytes | None) -> bytes:
    headers = {"Host": address.authority, **address.headers}
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    line = f"{method} {address.prefix}{path} HTTP/1.1"
    head = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode() + (body or b"")


def _beginning(address: Address, connection: socket.socket, timeout: float) -> bytearray:
    """Return the first bytes of the answer; do not wait for a daemon whose process is gone."""
    connection.settimeout(min(timeout, SILENCE_S))
    try:
        return bytearray(connection.recv(CHUNK_BYTES))
    except TimeoutError:
        check_there(address)
        connection.settimeout(timeout)
        return bytearray(connection.recv(CHUNK_BYTES))
    finally:
        connection.settimeout(timeout)


def _receive_rest(connection: socket.socket, received: bytearray) -> bool:
    """Receive the rest of an answer, and return whether the connection can be used again.

    The answer is as long as its Content-Length says. Without one it ends with the connection.
    """
    chunk: bytes | bytearray = received
    head, expected = None, None
    while chunk:
        if head is None and (head := _head(received)) is not None:
            expected = _length(head)
        if head is not None and expected is not None and len(received) >= expected:
            closes = head.headers.get("connection", "").lower() == "close"
            return head.version == "HTTP/1.1" and not closes and len(received) == expected
        chunk = connection.recv(CHUNK_BYTES)
        received += chunk
        if len(received) > MAX_RESPONSE_BYTES:
            raise DaemonFailed(f"the answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return False


def _head(received: bytes | bytearray) -> Head | None:
    """Return the head of a response, or None if it is incomplete or no HTTP/1."""
    end = received.find(END, 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    lines = received[:end].decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not (version.startswith("HTTP/1.") and rest[:3].isdecimal()):
        return None
    return Head(version, int(rest[:3]), dict(map(_header, lines[1:])), end + len(END))


def _length(head: Head) -> int | None:
    """Return the size of a response with its head, or None if it ends with the connection."""
    if head.status == NO_CONTENT or "transfer-encoding" in head.headers:
        return head.size
    length = head.headers.get("content-length", "")
    return head.size + int(length) if length.isdecimal() else None


def _response(address: Address, received: bytes) -> Response:
    head = _head(received)
    if head is None or "transfer-encoding" in head.headers:
        raise DaemonFailed(f"what listens at {address.url} does not answer as a runtimed does")
    body = received[head.size :]
    if head.headers.get("content-length", str(len(body))) != str(len(body)):
        raise Unreachable(f"{address.url} broke off in the middle of its answer")
    return Response(head.status, head.headers, body)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
