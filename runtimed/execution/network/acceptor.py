"""Accept the connections of a listening socket."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from runtimed.execution.tasks import begin, finish

PAUSE_S = 1.0
"""How long to wait before accepting again after the system had no descriptor left."""

SILENCE_S = 60.0
"""The shortest time between two warnings that no connection can be accepted."""

log = logging.getLogger(__name__)


class Acceptor:
    """Accepts the connections of one listening socket until `close`, and owns the socket and the connections.

    Args:
        sock: The listening socket, which does not block.
        slots: Each connection holds one. While there is none, connections wait in the backlog.
        serve: Serves a connection. The connection is closed behind it.
    """

    def __init__(
        self, sock: socket.socket, slots: asyncio.Semaphore, serve: Callable[[socket.socket], Awaitable[None]]
    ) -> None:
        self._sock = sock
        self._slots = slots
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._warned_at = -SILENCE_S
        self._accepting = begin(self._accept_all())

    async def close(self) -> None:
        """Close the socket and all connections. Call it once."""
        await finish(self._accepting)
        await finish(*self._connections)
        self._sock.close()

    async def _accept_all(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._sock)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._warn(error)
                await asyncio.sleep(PAUSE_S)
                continue
            await self._begin(connection)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._slots.acquire()
        except BaseException:
            connection.close()
            raise
        task = begin(self._run(connection))
        self._connections.add(task)
        task.add_done_callback(lambda task: self._end(task, connection))

    async def _run(self, connection: socket.socket) -> None:
        await self._serve(connection)

    def _end(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._connections.discard(task)
        self._slots.release()
        connection.close()

    def _warn(self, error: OSError) -> None:
        if self._loop.time() - self._warned_at >= SILENCE_S:
            self._warned_at = self._loop.time()
            log.warning("cannot accept connections of a Worker, new ones wait", extra={"reason": error})
