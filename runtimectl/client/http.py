"""A keep-alive HTTP/1.1 connection to a daemon.

Importing `http.client` instead would take a fifth of the time of a short command.
"""

import select
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType

from runtimectl.client.address import Address
from runtimectl.client.http_response import RECEIVE_BYTES, Response, ResponseReader
from runtimectl.client.tls import is_end, reason, refuses_client
from runtimectl.errors import NotConnected, TimedOut, Unreachable
from runtimed.wire import routes

TIMEOUT_S = 60.0
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
SILENCE_S = 1.0
"""Seconds of silence after which the daemon's process is checked again."""

MAX_IDLE_S = 2.0
"""Seconds for which an idle socket is kept for the next request. Servers keep theirs longer."""


class NoAnswer(Unreachable):
    """The connection was closed before the first byte of a response."""


class Connection:
    """Sends requests to one daemon, one after the other, over one socket for as long as the daemon keeps it open."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: socket.socket | None = None
        self._idle_since = 0.0

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float = TIMEOUT_S,
    ) -> Response:
        """Send a request and return the response.

        A GET is sent again if the kept socket turns out to be closed. No other request is ever sent twice.

        Args:
            method: The HTTP method.
            path: The path of the route, with its query.
            body: A JSON document, or None for no body.
            headers: Further headers by name.
            timeout: How long the daemon may be silent, in seconds.

        Raises:
            NotConnected: Nothing accepts a connection.
            Unreachable: The connection was lost before the response was complete.
            TimedOut: The daemon was silent for too long.
            DaemonFailed: The response is not HTTP, or is too large.
        """
        check_process(self.address)
        message = encode_request(self.address, method, path, body, headers)
        is_kept = self._idle is not None
        try:
            try:
                return self._exchange(message, timeout)
            except (ConnectionError, NoAnswer):
                if not is_kept or method != "GET":
                    raise
                return self._exchange(message, timeout)
        except TimeoutError:
            raise TimedOut(f"{self.address.url} did not answer within {timeout:g} s") from None
        except OSError as error:
            kind = NotConnected if refuses_client(error) else Unreachable
            raise kind(f"cannot reach {self.address.url}: {reason(error)}") from None

    def close(self) -> None:
        """Close the kept socket. A later request opens another."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _exchange(self, message: bytes, timeout: float) -> Response:
        connection = self._take_idle() or self._connect(timeout)
        is_kept = False
        try:
            connection.settimeout(timeout)
            is_sent = _send(connection, message)
            first = self._receive_first(connection, timeout)
            reader = ResponseReader(self.address.url, connection, first)
            response = reader.read()
            is_kept = is_sent and reader.is_reusable
            return response
        finally:
            if is_kept:
                self._idle, self._idle_since = connection, time.monotonic()
            else:
                connection.close()

    def _connect(self, timeout: float) -> socket.socket:
        try:
            return self.address.connect(timeout)
        except TimeoutError:
            raise
        except OSError as error:
            raise NotConnected(f"cannot reach {self.address.url}: {reason(error)}") from None

    def _receive_first(self, connection: socket.socket, timeout: float) -> bytes:
        """Receive the first bytes of a response. The wait ends early if the daemon's process has ended."""
        connection.settimeout(min(timeout, SILENCE_S))
        try:
            found = connection.recv(RECEIVE_BYTES)
        except TimeoutError:
            check_process(self.address)
            connection.settimeout(timeout)
            found = connection.recv(RECEIVE_BYTES)
        connection.settimeout(timeout)
        if not found:
            raise NoAnswer(f"cannot reach {self.address.url}: it closed the connection without an answer")
        return found

    def _take_idle(self) -> socket.socket | None:
        """Return the kept socket, unless it was idle for too long or the daemon has closed it."""
        if self._idle is not None and (time.monotonic() - self._idle_since > MAX_IDLE_S or _is_readable(self._idle)):
            self.close()
        idle, self._idle = self._idle, None
        return idle


def check_process(address: Address) -> None:
    """Check that the daemon whose endpoint file names this address still runs. Sends no token.

    A token that the user gave may be meant for another daemon that serves the address by now: that one is asked for
    any answer first.

    Raises:
        NotConnected: The daemon's process has ended.
    """
    from runtimectl.client.discovery import ended_process

    pid = ended_process(address)
    if pid is not None and not (address.has_given_token and _answers(address._replace(token=None))):
        raise NotConnected(f"cannot reach {address.url}: process {pid} that served it has ended")


def _answers(address: Address) -> bool:
    try:
        with address.connect(SILENCE_S) as connection:
            connection.sendall(encode_request(address, "GET", routes.RUNTIME, None))
            return bool(connection.recv(1))
    except OSError:
        return False


def encode_request(
    address: Address, method: str, path: str, body: bytes | None, further: Mapping[str, str] = NO_HEADERS
) -> bytes:
    """Return the bytes of a request, with further headers by name."""
    headers = {"Host": address.authority, **address.headers, **further}
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    line = f"{method} {address.prefix}{path} HTTP/1.1"
    head = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode() + (body or b"")


def _send(connection: socket.socket, message: bytes) -> bool:
    """Send a request; False if the daemon closed its side first: it may have refused a body that it did not read."""
    try:
        connection.sendall(message)
    except OSError as error:
        if not isinstance(error, BrokenPipeError | ConnectionResetError) and not is_end(error):
            raise
        return False
    return True


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
