"""Sockets in front of an application: how many connections, and for how long."""

import asyncio
import functools
import socket
from collections.abc import Sequence
from typing import Any, cast

from aiohttp import web

from runtimed.http.acceptor import Acceptor
from runtimed.http.app import DISPATCHER
from runtimed.http.connection import Connection
from runtimed.http.requests import RequestProtocol
from runtimed.http.slots import Held, Slot, Slots

MAX_CONNECTIONS = 4_096
MAX_UNAUTHENTICATED_BYTES = 64 * 2**20
HEADER_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 10.0


class HttpServer:
    """Serves one application on sockets that are bound already, until `close`.

    An AppRunner sets the application up; the connections are made here, because aiohttp has no place for a limit of
    their number and answers what is no HTTP in plain text. Those of an application of `make_app` begin as Connection,
    any other's are aiohttp's from the start.

    A connection that has not sent a whole request head within `header_timeout_s` is cut, an idle one likewise.
    Each socket has slots for `max_connections`. A connection too many takes the slot of the oldest that has shown no
    token; it is closed where there is none. What such connections hold, of all sockets together, is at most
    `max_unauthenticated_bytes`: past that the oldest are closed.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_unauthenticated_bytes: int = MAX_UNAUTHENTICATED_BYTES,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
    ) -> None:
        self._runner = web.AppRunner(app, handle_signals=False)
        self._max_connections = max_connections
        self._max_unauthenticated_bytes = max_unauthenticated_bytes
        self._header_timeout_s = header_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._dispatcher = app.get(DISPATCHER)
        self._acceptors: list[Acceptor] = []
        self._plain: set[Connection] = set()

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to serve."""
        await self._runner.setup()
        application = self._runner.server
        if application is None:
            raise RuntimeError("the application has no server after its set-up")
        self._protocols = _Protocols(
            application.request_handler,
            request_factory=application.request_factory,
            keepalive_timeout=self._header_timeout_s,
            lingering_time=2.0,
            access_log=None,
            auto_decompress=False,
        )
        held = Held(self._max_unauthenticated_bytes)
        for sock in sockets:
            slots = Slots(self._max_connections, held)
            self._acceptors.append(Acceptor(sock, functools.partial(self._protocol, slots)))

    def _protocol(self, slots: Slots) -> asyncio.Protocol:
        if self._dispatcher is None:
            return self._protocols.protocol(slots)
        give_over = functools.partial(self._protocols.protocol, slots)
        return Connection(self._dispatcher, give_over, self._header_timeout_s, self._plain, slots)

    async def close(self) -> None:
        """Accept nothing more, let what is going on finish within the drain time-out, close every connection."""
        for acceptor in self._acceptors:
            acceptor.close()
        if self._acceptors:
            await self._runner.shutdown()  # first: a connection that is told to close hears no answers any more
            self._protocols.pre_shutdown()
            given_over = self._protocols.shutdown(self._drain_timeout_s / 2)  # it waits twice, one after another
            await asyncio.gather(self._close_plain(), given_over)
        await self._runner.cleanup()

    async def _close_plain(self) -> None:
        for connection in tuple(self._plain):
            connection.close()
        answering = [connection.answering for connection in self._plain if connection.answering is not None]
        if answering:
            _, late = await asyncio.wait(answering, timeout=self._drain_timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class _Protocols(web.Server):
    """Makes the protocol of each connection."""

    def __init__(self, handler: Any, *, request_factory: Any, **options: Any) -> None:
        def begin(message: Any, payload: Any, protocol: web.RequestHandler, *rest: Any) -> Any:
            cast("RequestProtocol", protocol).begin()
            return request_factory(message, payload, protocol, *rest)

        super().__init__(handler, request_factory=begin)
        self._options = options

    def protocol(self, slots: Slots, slot: Slot | None = None) -> web.RequestHandler:
        """The protocol of a connection that is yet to take one of these slots, or has its slot."""
        loop = asyncio.get_running_loop()
        return RequestProtocol(self, slots=slots, slot=slot, loop=loop, **self._options)
