"""One HTTP request and its response, on a connection of their own.

As much of HTTP as that takes, because importing `http.client` takes a fifth of the time of a short command.
"""

import socket
from contextlib import suppress
from typing import NamedTuple

from runtimectl.address import Address
from runtimectl.errors import DaemonFailed, TimedOut, Unreachable
from runtimed.wire import routes

TIMEOUT_S = 60.0
SILENCE_S = 1.0
"""After so much silence it is looked again whether the daemon's process is still there."""

MAX_RESPONSE_BYTES = 256 << 20
CHUNK_BYTES = 1 << 18


class Response(NamedTuple):
    """What was answered; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    address: Address, method: str, path: str, body: bytes | None = None, *, timeout: float = TIMEOUT_S
) -> Response:
    """The response to one request; `timeout` is how long the daemon may be silent, in seconds.

    Raises Unreachable, TimedOut, and DaemonFailed for what is no HTTP.
    """
    check_there(address)
    try:
        with address.open(timeout) as connection:
            connection.settimeout(timeout)
            # A refusal may come before the whole body is read; then it is there to be read although sending fails.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(_request(address, method, path, body))
            found = _beginning(address, connection, timeout)
            found += _everything(connection) if found else b""
    except TimeoutError:
        raise TimedOut(f"{address.url} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise Unreachable(f"cannot reach {address.url}: {error.strerror or error}") from None
    if not found:
        raise Unreachable(f"cannot reach {address.url}: it closed the connection without an answer")
    return _response(address, found)


def _beginning(address: Address, connection: socket.socket, timeout: float) -> bytes:
    """The first bytes of the answer; a daemon whose process is gone is not waited for."""
    connection.settimeout(min(timeout, SILENCE_S))
    try:
        return connection.recv(CHUNK_BYTES)
    except TimeoutError:
        check_there(address)
        connection.settimeout(timeout)
        return connection.recv(CHUNK_BYTES)
    finally:
        connection.settimeout(timeout)


def check_there(address: Address) -> None:
    """Raises Unreachable where the process of the daemon that served at this address is gone. Sends no token.

    A token that was given for the address may be that of another daemon which answers there by now.
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
    """HTTP/1.0, so that the answer comes in one piece and ends with the connection."""
    headers = {"Host": address.authority, **address.headers}
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    line = f"{method} {address.prefix}{path} HTTP/1.0"
    head = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode() + (body or b"")


def _everything(connection: socket.socket) -> bytes:
    found = bytearray()
    while chunk := connection.recv(CHUNK_BYTES):
        found += chunk
        if len(found) > MAX_RESPONSE_BYTES:
            raise DaemonFailed(f"the answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return bytes(found)


def _response(address: Address, found: bytes) -> Response:
    head, gap, body = found.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    headers = dict(_header(line) for line in lines[1:])
    if not (gap and version.startswith("HTTP/1.") and rest[:3].isdecimal()) or "transfer-encoding" in headers:
        raise DaemonFailed(f"what listens at {address.url} does not answer as a runtimed does")
    if headers.get("content-length", str(len(body))) != str(len(body)):
        raise Unreachable(f"{address.url} broke off in the middle of its answer")
    return Response(int(rest[:3]), headers, body)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
