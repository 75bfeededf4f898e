"""Accepting connections on a listening socket."""

import asyncio
import logging
import socket
from collections.abc import Callable

PAUSE_S = 1.0
"""How long to wait before accepting again after the system had no descriptor left."""

SILENCE_S = 60.0
"""The shortest time between two warnings about missing descriptors."""

MAX_AT_ONCE = 64

log = logging.getLogger(__name__)


class Acceptor:
    """Accepts the connections of one listening socket until `close`, which closes the socket.

    If no descriptor is left, connections wait in the backlog until there is one. The event loops have acceptors of
    their own, but in that case asyncio's logs thousands of lines a second, and uvloop's drops connections.

    Args:
        sock: The listening socket, which does not block.
        protocol: Makes the protocol of a new connection.
    """

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._warned_at = -SILENCE_S
        self._resume()

    def close(self) -> None:
        """Accept no more connections. May be called again."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        if self._pause is not None:
            self._pause.cancel()
        for task in self._connecting:
            task.cancel()
        self._sock.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(MAX_AT_ONCE):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait(error)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError):
                raise

    def _wait(self, error: OSError) -> None:
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(PAUSE_S, self._resume)
        if self._loop.time() - self._warned_at >= SILENCE_S:
            self._warned_at = self._loop.time()
            log.warning("cannot accept connections, new ones wait", extra={"reason": error.strerror})
