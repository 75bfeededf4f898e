"""An HTTP server for the programs of one Worker."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

import attrs
from aiohttp import HttpVersion10, HttpVersion11, web

from runtimed.gateways.refused import Refused

MAX_CONNECTIONS = 128
"""The connections of one process tree. A further one is closed at once."""

KEEPALIVE_S = 60.0
"""How long a connection may be idle, or take to send the head of a request."""

LINGERING_S = 2.0
"""How long the rest of a body is read after a response that did not need it."""

CLOSE_S = 1.0
MAX_HEADER_BYTES = 32 * 2**10
VERSIONS = frozenset({HttpVersion10, HttpVersion11})
"""The versions of HTTP that are served. aiohttp reads requests of 0.9 and 2.0 as well."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Refuse = Callable[[Refused], web.Response]

log = logging.getLogger(__name__)


class HttpService:
    """Serves HTTP on listening sockets, as a `Service` does. A subclass answers the requests."""

    def __init__(self) -> None:
        self._listeners: dict[socket.socket, _Listener] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request. Bodies are neither decoded nor limited. Cancelled when its connection is lost."""
        raise NotImplementedError

    def refusal(self, refused: Refused) -> web.Response:
        """Return the gateway's own response."""
        raise NotImplementedError

    async def serve(self, listener: socket.socket) -> None:
        connections = _Connections(self.answer, self.refusal)
        try:
            server = await asyncio.get_running_loop().create_server(connections.make, sock=listener)
        except BaseException:
            listener.close()
            raise
        self._listeners[listener] = _Listener(listener, server, connections)

    async def forget(self, listener: socket.socket) -> None:
        if served := self._listeners.pop(listener, None):
            await served.close()

    async def close(self) -> None:
        listeners, self._listeners = list(self._listeners.values()), {}
        await asyncio.gather(*(served.close() for served in listeners))


@attrs.frozen
class _Listener:
    sock: socket.socket
    server: asyncio.Server
    connections: "_Connections"

    async def close(self) -> None:
        self.server.close()
        self.sock.close()
        await self.connections.abort()


class _Connections(web.Server):
    """The connections accepted on one listener."""

    def __init__(self, handler: Handler, refuse: Refuse) -> None:
        super().__init__(self._handle, handler_cancellation=True)
        self._handler = handler
        self._refuse = refuse
        self._transports: dict[web.RequestHandler, asyncio.Transport] = {}
        self._answering: set[asyncio.Task[object]] = set()

    def make(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        if len(self._transports) >= MAX_CONNECTIONS:
            return _Excess()
        return _Connection(
            self,
            self._refuse,
            loop=asyncio.get_running_loop(),
            logger=log,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGERING_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._transports[handler] = transport

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._transports.pop(handler, None)

    async def abort(self) -> None:
        """Close all connections, whether or not their peers read, and wait for the end of their requests."""
        for transport in self._transports.values():
            transport.abort()  # close() would wait for a peer that does not read
        if self._answering:
            await asyncio.wait(self._answering)
        await self.shutdown(CLOSE_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._answering.add(task)
        try:
            if request.version not in VERSIONS:
                return request.protocol.handle_error(request, HTTPStatus.BAD_REQUEST)
            return await self._handler(request)
        finally:
            self._answering.discard(task)


class _Connection(web.RequestHandler):
    """One connection. What arrives on it may be anything: programs of a Worker must not fill the log with it."""

    __slots__ = ("_refuse",)

    def __init__(self, server: web.Server, refuse: Refuse, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun already")
        response = self._refuse(Refused(status, "invalid_request", "expected a valid request of HTTP/1.1"))
        response.force_close()
        return response


class _Excess(asyncio.Protocol):
    """A connection above MAX_CONNECTIONS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()
