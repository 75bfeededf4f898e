"""Observers that stop reading while others are measured."""

import array
import contextlib
import fcntl
import socket
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.servers import REQUEST_DEADLINE_S, Server, handshake
from benchmarks.ticks import PAYLOAD_BYTES

MAX_SEGMENT = 1_448
"""Bytes, as on Ethernet. With the loopback device's segments the kernel alone buffers 2 MB for an observer."""

RECEIVE_BUFFER = 4_096

LOCAL, REMOTE, STATE, QUEUES = 1, 2, 3, 4
"""Columns of /proc/net/tcp."""

ESTABLISHED = "01"
LOOKS = 3
"""How often to look for a connection. The kernel may omit entries while the table changes."""


@contextmanager
def stalling(server: Server, path: str, *, count: int, ticks: int) -> Iterator[None]:
    """Observe a feed without reading beyond its first frame.

    Args:
        server: The server.
        path: The path of the feed.
        count: How many observers.
        ticks: How many ticks are sent meanwhile.

    Raises:
        ValueError: The kernel's buffers took all ticks of an observer, so the server never had to wait.
        ConnectionError: The server closed the connection of an observer.
    """
    with contextlib.ExitStack() as connections:
        stalled = [connections.enter_context(_observer(server, path)) for _ in range(count)]
        yield
        taken = max(_taken(server, connection) for connection in stalled)
        if taken >= ticks * PAYLOAD_BYTES:
            raise ValueError(f"an observer that does not read took {taken:,} bytes, all of {ticks:,} ticks")


def _observer(server: Server, path: str) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(REQUEST_DEADLINE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MAX_SEGMENT)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    connection.connect(server.address)
    connection.sendall(server.upgrade(path))
    handshake(connection)
    return connection


def _taken(server: Server, connection: socket.socket) -> int:
    """Return the bytes that the kernel holds at both ends of a connection."""
    ends = [f":{port:04X}" for port in (server.address[1], connection.getsockname()[1])]
    for _ in range(LOOKS):
        for line in Path("/proc/net/tcp").read_text().splitlines():
            found = line.split()
            if [found[LOCAL][-5:], found[REMOTE][-5:], found[STATE]] == [*ends, ESTABLISHED]:
                return int(found[QUEUES].partition(":")[0], 16) + _unread(connection)
    raise ConnectionError("the server has let an observer go that does not read")


def _unread(connection: socket.socket) -> int:
    held = array.array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, held)
    return held[0]
