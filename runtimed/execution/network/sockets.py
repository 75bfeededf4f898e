"""Copy between sockets that don't block, as fast as the slower end takes it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

from runtimed.execution.network.rejection import Rejection, malformed

CHUNK = 1 << 16

MAX_HEAD_BYTES = 32768
"""The most bytes of a head: a request line or status line, with its headers."""

_RESET = struct.pack("ii", 1, 0)


@contextlib.asynccontextmanager
async def idle_limit(idle_s: float) -> AsyncIterator[Callable[[], None]]:
    """Raise TimeoutError when nothing was copied for a while.

    Args:
        idle_s: For how long.

    Yields:
        What to call whenever something was copied.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(idle_s) as limit:

        def touch() -> None:
            if not limit.expired():
                limit.reschedule(loop.time() + idle_s)

        yield touch


async def read_head(source: socket.socket, received: bytes = b"", *, strict: bool) -> tuple[bytes, bytes]:
    """Read up to the first empty line.

    Args:
        source: Where to read.
        received: What was read there before.
        strict: Whether all lines must end with CRLF, and not with a line feed alone.

    Returns:
        The head with the empty line, and what has arrived behind it. Both are empty if nothing arrived at all.

    Raises:
        Rejection: It is too long (431), incomplete, or has a line feed alone (400).
        OSError: The connection is lost.
    """
    loop, head = asyncio.get_running_loop(), _Head(strict)
    while not head.feed(received):
        received = await loop.sock_recv(source, CHUNK)
        if not received:
            return head.incomplete()
    return head.split()


class _Head:
    """A head that arrives in pieces. Each byte is looked at once."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._data = bytearray()
        self._line = 0
        """Where the line begins that has not ended yet."""

    def feed(self, data: bytes) -> bool:
        """Add what arrived, and return whether the head is complete."""
        position = len(self._data)
        self._data += data
        while (end := self._data.find(b"\n", position, MAX_HEAD_BYTES)) >= 0:
            line = bytes(self._data[self._line : end])
            if self._strict and not line.endswith(b"\r"):
                raise malformed("expected CRLF at the end of each line")
            self._line = position = end + 1
            if line in (b"", b"\r"):
                return True
        if len(self._data) >= MAX_HEAD_BYTES:
            text = f"expected at most {MAX_HEAD_BYTES} bytes in a request line with its headers"
            raise Rejection(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        return False

    def split(self) -> tuple[bytes, bytes]:
        return bytes(self._data[: self._line]), bytes(self._data[self._line :])

    def incomplete(self) -> tuple[bytes, bytes]:
        if self._data:
            raise malformed("the connection was closed within the head")
        return b"", b""


async def copy(source: socket.socket, sink: socket.socket, touch: Callable[[], None]) -> None:
    """Copy until the source ends, and end the sink then. `touch` is called whenever some bytes were copied."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
        touch()
    end(sink)


async def tunnel(client: socket.socket, server: socket.socket, idle_s: float) -> None:
    """Copy both ways until both ends have ended.

    Raises:
        OSError: A connection is lost, or nothing was copied for `idle_s`.
    """
    async with idle_limit(idle_s) as touch:
        ways = [asyncio.ensure_future(copy(*pair, touch)) for pair in ((client, server), (server, client))]
        try:
            await asyncio.gather(*ways)
        finally:
            await cancel(*ways)


async def drain(source: socket.socket) -> None:
    """Read and drop until the source ends: closing a socket with unread data would destroy what was sent on it."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(source, CHUNK):
        pass


async def cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, wait for them and drop what they lead to."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def end(sink: socket.socket) -> None:
    """Send no more. The other direction stays open."""
    with contextlib.suppress(OSError):  # the other side has gone already
        sink.shutdown(socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    """Have the next `close` reset the connection, so that what was sent does not look complete."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
