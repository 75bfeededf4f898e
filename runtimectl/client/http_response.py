"""Read HTTP/1.1 responses from a socket, as a daemon or a proxy in front of it sends them."""

import socket
from collections.abc import Iterator
from typing import NamedTuple

from runtimectl.errors import DaemonFailed, Unreachable

MAX_HEAD_BYTES = 1 << 16
MAX_RESPONSE_BYTES = 256 << 20
RECEIVE_BYTES = 1 << 18
HEX_DIGITS = b"0123456789abcdefABCDEF"
HTTP_1 = b"HTTP/1."
"""How every response begins, a broken one as far as it was received."""


class Response(NamedTuple):
    """A response. The names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class ResponseReader:
    """Reads one response.

    Args:
        url: The address of the daemon, for errors.
        connection: The socket.
        first: The bytes of the response that were received already.

    Attributes:
        is_reusable: Whether another request may follow on the socket, once the response was read.
    """

    def __init__(self, url: str, connection: socket.socket, first: bytes) -> None:
        self.is_reusable = True
        self._url = url
        self._connection = connection
        self._received = bytearray(first)
        self._is_chunked = False
        self._length: int | None = None

    def read(self) -> Response:
        """Read the response to its end.

        Raises:
            Unreachable: The connection was lost before.
            DaemonFailed: The response is not HTTP, or is too large.
        """
        status, headers = self._head()
        while 100 <= status < 200:
            status, headers = self._head()
        body = self._body(status, headers)
        if self._received or headers.get("connection", "").lower() == "close":
            self.is_reusable = False
        return Response(status, headers, body)

    def open(self) -> Response | None:
        """Read the head of a response that goes on without an end: `pieces` reads its body.

        Returns:
            None, or the whole response if its status is not 200.
        """
        status, headers = self._head()
        if status != 200:
            return Response(status, headers, self._body(status, headers))
        self._is_chunked = "transfer-encoding" in headers
        length = headers.get("content-length", "")
        self._length = int(length) if length.isdecimal() and not self._is_chunked else None
        return None

    @property
    def length(self) -> int | None:
        """How long the body of an opened response is, None if its head does not say it."""
        return self._length

    def whole(self) -> Iterator[bytes]:
        """Yield the body of an opened response as it comes.

        Raises:
            Unreachable: The connection was lost before the end of the body.
            DaemonFailed: The response does not say where its body ends.
        """
        if self._is_chunked:
            yield from self._whole_chunks()
        elif self._length is None:
            raise self._malformed()
        yield from self._next(self._length or 0)

    def _next(self, left: int) -> Iterator[bytes]:
        """Yield the next bytes as they come. Raises Unreachable if there are fewer."""
        while left:
            if not self._received and not self._receive():
                raise self._lost()
            piece = self._take(min(left, len(self._received)))
            left -= len(piece)
            yield piece

    def _whole_chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._next(size)
            if self._take(2) != b"\r\n":
                raise self._malformed()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes, until its end."""
        while self._is_chunked and (self._received or self._receive()) and (size := self._chunk_size()):
            yield self._take(size)
            self._take(2)
        while not self._is_chunked and (self._received or self._receive()):
            yield self._take(len(self._received))

    def _head(self) -> tuple[int, dict[str, str]]:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not (version.startswith("HTTP/1.") and rest[:3].isdecimal()):
            raise self._malformed()
        if version != "HTTP/1.1":
            self.is_reusable = False
        return int(rest[:3]), dict(_header(line) for line in lines[1:])

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in {204, 304}:
            return b""
        if "transfer-encoding" in headers:
            return self._chunked(headers["transfer-encoding"])
        length = headers.get("content-length")
        if length is None:
            return self._rest()
        if not length.isdecimal():
            raise self._malformed()
        return self._take(int(length))

    def _chunked(self, encoding: str) -> bytes:
        if encoding.lower() != "chunked":
            raise self._malformed()
        body = bytearray()
        while size := self._chunk_size():
            body += self._take(size)
            _check_size(len(body))
            if self._take(2) != b"\r\n":
                raise self._malformed()
        if self._take(2) != b"\r\n":  # Trailers follow; they are not read.
            self.is_reusable = False
        return bytes(body)

    def _chunk_size(self) -> int:
        digits = self._until(b"\r\n", is_begun=True).partition(b";")[0].strip()
        if not digits or digits.strip(HEX_DIGITS):
            raise self._malformed()
        return int(digits, 16)

    def _rest(self) -> bytes:
        self.is_reusable = False
        while self._receive():
            _check_size(len(self._received))
        return self._take(len(self._received))

    def _until(self, mark: bytes, *, is_begun: bool = False) -> bytes:
        """Return the bytes before a mark, and drop the mark; `is_begun` says that a response has begun before."""
        while (end := self._received.find(mark, 0, MAX_HEAD_BYTES)) < 0:
            if len(self._received) >= MAX_HEAD_BYTES:
                raise self._malformed()
            if not self._receive():
                is_begun = is_begun or HTTP_1.startswith(bytes(self._received[: len(HTTP_1)]))
                raise self._lost() if is_begun else self._malformed()
        found = self._take(end)
        self._take(len(mark))
        return found

    def _take(self, size: int) -> bytes:
        _check_size(size)
        while len(self._received) < size:
            if not self._receive():
                raise self._lost()
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def _receive(self) -> bool:
        """Receive some bytes; False at the end of the connection."""
        found = self._connection.recv(RECEIVE_BYTES)
        self._received += found
        return bool(found)

    def _lost(self) -> Unreachable:
        return Unreachable(f"{self._url} closed the connection in the middle of its answer")

    def _malformed(self) -> DaemonFailed:
        return DaemonFailed(f"unexpected response: {self._url} is not the address of a runtimed")


def _check_size(size: int) -> None:
    if size > MAX_RESPONSE_BYTES:
        raise DaemonFailed(f"the answer is larger than {MAX_RESPONSE_BYTES} bytes")


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
