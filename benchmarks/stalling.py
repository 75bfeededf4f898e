"""Observers that have stopped reading, for as long as others are measured."""

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
"""Bytes, as on an Ethernet: with the segments of the loopback device the kernel alone takes 2 MB for an observer."""

RECEIVE_BUFFER = 4_096

LOCAL, REMOTE, STATE, QUEUES = 1, 2, 3, 4
"""Columns of /proc/net/tcp."""

ESTABLISHED = "01"
LOOKS = 3
"""How often a connection is looked for: the kernel may leave some out of a table that changes meanwhile."""


@contextmanager
def stalling(server: Server, path: str, *, count: int, ticks: int) -> Iterator[None]:
    """Have a feed observed by so many that read its first frame and nothing more, while so many ticks are sent.

    Raises ValueError if one of them could have taken all of these: it has not made the server wait. Raises
    ConnectionError if the server has let one go.
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
    """How many bytes the server has got rid of: those that the kernel holds at both ends of a connection."""
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
