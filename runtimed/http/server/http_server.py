"""The HTTP server: listening sockets, connections and their limits."""

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from aiohttp import web

from runtimed.http.server.acceptor import Acceptor
from runtimed.http.server.connection import Connection
from runtimed.http.server.quick_connection import QuickConnection
from runtimed.http.server.slots import Slot, Slots, UnauthenticatedBytes
from runtimed.http.server.tls_context import TlsContext
from runtimed.http.server.tls_transport import TlsTransport
from runtimed.http.web.application import ApiApplication

MAX_CONNECTIONS = 4_096
MAX_UNAUTHENTICATED_BYTES = 64 * 2**20
HEADER_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 10.0
LINGERING_S = 2.0
"""How long the rest of a body is read that a handler did not read."""


class HttpServer:
    """Serves the API on sockets that are bound already, from `start` until `close`.

    A connection that has not sent a whole request head within `header_timeout_s` is cut, and an idle one likewise.
    A TLS handshake may take as long.
    Each socket has slots for `max_connections`. If all are taken, a new connection takes the slot of the oldest
    one that has shown no token. If there is none, the new one is closed.

    Args:
        api: What answers requests.
        max_connections: How many connections each socket serves at once.
        max_unauthenticated_bytes: How much connections that have shown no token hold, on all sockets together. Above
            that the oldest of them are closed.
        header_timeout_s: How long a request head may take, in seconds.
        drain_timeout_s: How long `close` waits for requests that have begun, in seconds.
        quick_requests: Whether plain requests are answered without aiohttp's machinery.
        tls: The certificates of all sockets but Unix sockets; None for no TLS.
    """

    def __init__(
        self,
        api: ApiApplication,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_unauthenticated_bytes: int = MAX_UNAUTHENTICATED_BYTES,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
        quick_requests: bool = True,
        tls: TlsContext | None = None,
    ) -> None:
        self.api = api
        self._tls = tls
        self._max_connections = max_connections
        self._max_unauthenticated_bytes = max_unauthenticated_bytes
        self._header_timeout_s = header_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._quick_requests = quick_requests
        self._connections: _Connections | None = None
        self._acceptors: list[Acceptor] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to serve on listening sockets, which `close` closes."""
        self._connections = _Connections(
            self.api,
            quick=self._quick_requests,
            keepalive_timeout=self._header_timeout_s,
            lingering_time=LINGERING_S,
            access_log=None,
            auto_decompress=False,
        )
        unauthenticated = UnauthenticatedBytes(self._max_unauthenticated_bytes)
        for sock in sockets:
            slots = Slots(self._max_connections, unauthenticated)
            make = functools.partial(self._connections.make, slots)
            if self._tls is not None and sock.family != socket.AF_UNIX:
                make = functools.partial(self._encrypted, self._tls, slots, make)
            self._acceptors.append(Acceptor(sock, make))

    async def close(self) -> None:
        """Accept no more connections, finish what has begun within the drain time-out, and close every connection."""
        for acceptor in self._acceptors:
            acceptor.close()
        if self._connections is None:
            return
        await self.api.close()  # first: observers read no farewell on a connection that is closing
        self._connections.pre_shutdown()
        await self._connections.shutdown(self._drain_timeout_s / 2)  # each connection waits twice

    def _encrypted(self, tls: TlsContext, slots: Slots, make: Callable[[Slot], asyncio.Protocol]) -> asyncio.Protocol:
        return TlsTransport(tls.current, slots, make, self._header_timeout_s)


class _Connections(web.Server):
    """Makes the connections, and passes their requests on."""

    def __init__(self, api: ApiApplication, *, quick: bool, **options: Any) -> None:
        super().__init__(self._handle, request_factory=self._begin)
        self._api = api
        self._quick = quick
        self._options = options

    def make(self, slots: Slots, slot: Slot | None = None) -> asyncio.Protocol:
        """Return the protocol of a new connection, which takes one of these slots unless it has one already."""
        kind = QuickConnection if self._quick else Connection
        return kind(self, api=self._api, slots=slots, slot=slot, loop=self._loop, **self._options)

    def _begin(
        self, message: Any, payload: Any, protocol: web.RequestHandler, writer: Any, task: Any
    ) -> web.BaseRequest:
        cast("Connection", protocol).begin()
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        admitted = cast("Connection", request.protocol).admitted
        return await self._api.handle(request, request.rel_url.path_safe, admitted)
