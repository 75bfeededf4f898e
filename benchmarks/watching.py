"""An observer in the process of a case: when something appears in a feed."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.servers import REQUEST_DEADLINE_S, SWITCHED, Server

CHUNK = 2**16


class Watcher:
    """Searches the bytes of a feed for marks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = b""

    def until(self, mark: bytes) -> float:
        """Read until a mark appears, and return the CLOCK_MONOTONIC time."""
        while mark not in self._read:
            chunk = self._connection.recv(CHUNK)
            if not chunk:
                raise ConnectionError("the feed has ended")
            self._read = self._read[-len(mark) :] + chunk
        self._read = self._read.partition(mark)[2]
        return time.monotonic()

    def frame(self) -> bytes:
        """Return the content of the next frame. Frames of a server are unmasked and unfragmented."""
        size = self._take(2)[1]
        if extra := {126: 2, 127: 8}.get(size, 0):
            size = int.from_bytes(self._take(extra))
        return self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            chunk = self._connection.recv(CHUNK)
            if not chunk:
                raise ConnectionError("the feed has ended")
            self._read += chunk
        taken, self._read = self._read[:size], self._read[size:]
        return taken


@contextmanager
def watching(server: Server, path: str) -> Iterator[Watcher]:
    """Observe the feed at a path."""
    with socket.create_connection(server.address, timeout=REQUEST_DEADLINE_S) as connection:
        connection.sendall(server.upgrade(path))
        watcher = Watcher(connection)
        watcher.until(SWITCHED)
        watcher.until(b"\r\n\r\n")
        yield watcher
