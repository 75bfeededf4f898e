"""Sockets in front of an application: how many connections, for how long, and what a broken request is told."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from runtimed.errors import Internal, InvalidRequest, RuntimedError
from runtimed.http.acceptor import Acceptor
from runtimed.http.app import DISPATCHER
from runtimed.http.connection import Connection
from runtimed.http.errors import error_answer

MAX_CONNECTIONS = 4_096
HEADER_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 10.0

CLOSED = "the handler is closed"
"""What uvloop says of a write to a handle that it has closed."""

log = logging.getLogger(__name__)


class HttpServer:
    """Serves one application on sockets that are bound already, until `close`.

    An AppRunner sets the application up; the connections are made here, because aiohttp has no place for a limit of
    their number and answers what is no HTTP in plain text. Those of an application of `make_app` begin as Connection,
    any other's are aiohttp's from the start.

    A connection that has not sent a whole request head within `header_timeout_s` is cut, an idle one likewise.
    Connections above `max_connections` are closed at once.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        max_connections: int = MAX_CONNECTIONS,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
    ) -> None:
        self._runner = web.AppRunner(app, handle_signals=False)
        self._max_connections = max_connections
        self._header_timeout_s = header_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._dispatcher = app.get(DISPATCHER)
        self._acceptors: list[Acceptor] = []
        self._plain: set[Connection] = set()
        self._full = False

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
        self._acceptors = [Acceptor(sock, self._protocol) for sock in sockets]

    def _protocol(self) -> asyncio.Protocol:
        full = len(self._plain) + len(self._protocols.connections) >= self._max_connections
        if full and not self._full:
            log.warning("connections are refused while there are %d (max_connections)", self._max_connections)
        self._full = full
        if full:
            return _Refused()
        if self._dispatcher is None:
            return self._protocols()
        return Connection(self._dispatcher, self._protocols, self._header_timeout_s, self._plain)

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
        super().__init__(handler, request_factory=request_factory)
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)


class _Connection(web.RequestHandler):
    """One connection; a request that is not HTTP gets the same kind of answer as any other bad one."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See RequestHandler. A broken request is no fault of ours and leaves no traceback."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response was begun already")
        error: RuntimedError = InvalidRequest("expected an HTTP/1.1 request")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("a connection failed", exc_info=exc)
            error = Internal()
        response = error_answer(error).response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """See RequestHandler. An answer to a connection that is closed already fails, and that is no news.

        A transport of uvloop may be closed and say that it is not closing; the error says so then.
        """
        closed = self.transport is None or self.transport.is_closing() or CLOSED in str(options.get("exc_info"))
        if not closed:
            super().log_exception(*args, **options)


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
