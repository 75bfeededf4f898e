"""The HTTP proxy of a Worker: its only way to hosts outside."""

import asyncio
import base64
import errno
import hmac
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus

import attrs

from runtimed.execution.network import sockets
from runtimed.execution.network.acceptor import Acceptor
from runtimed.execution.network.dialer import Dialer, Refused
from runtimed.execution.network.forwarding import Forwarding
from runtimed.execution.network.rejection import Rejection
from runtimed.execution.network.request import ProxyRequest, parse_request
from runtimed.execution.network.resolver import Resolve, SystemResolver
from runtimed.execution.network.rules import NetworkPolicy

MAX_LOOKUPS = 4
"""How many names are looked up at once for one Worker."""

MAX_REJECTING = 16
"""How many connections beyond the limit of a Worker are told so at once. Others wait in the backlog."""

USER = "worker"
"""The name that goes with the password of a proxy."""

CHALLENGE = 'Proxy-Authenticate: Basic realm="runtimed"\r\n'
BASIC = "basic"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

Report = Callable[[str, int, str], None]
"""Takes the host, the port and the reason of a refused connection."""

log = logging.getLogger(__name__)


@attrs.frozen
class ProxyLimits:
    """Limits of the proxy of one Worker.

    Attributes:
        max_connections: How many are served at once.
        head_s: How long a client may take to send the head of its request.
        lookup_s: How long looking up a name may take.
        connect_s: How long connecting may take, for all addresses of a name together.
        idle_s: How long a connection may be without any data.
        linger_s: How long a client may take to close after a response.
    """

    max_connections: int = 256
    head_s: float = 30.0
    lookup_s: float = 15.0
    connect_s: float = 30.0
    idle_s: float = 900.0
    linger_s: float = 2.0


class SharedLimits:
    """Limits of all proxies of a daemon together.

    Args:
        max_connections: How many are served at once.
        max_lookups: How many names are looked up at once.
    """

    def __init__(self, max_connections: int = 1024, max_lookups: int = 32) -> None:
        self.max_connections = max_connections
        self.connections = 0
        self.lookups = asyncio.Semaphore(max_lookups)


class Proxy:
    """Connects the programs of one Worker to the hosts that its policy allows: by CONNECT, or http:// requests.

    Each connection serves one request. A `Service`.

    Args:
        policy: What is allowed.
        refused: Is told of each connection that the policy refuses.
        shared: The limits of all proxies together.
        password: What clients must know, as USER; None where only the programs of the Worker can connect.
        resolve: Looks up the addresses of a name; None asks the system.
        limits: The limits of this proxy.
    """

    def __init__(
        self,
        policy: NetworkPolicy,
        refused: Report,
        shared: SharedLimits,
        *,
        password: str | None = None,
        resolve: Resolve | None = None,
        limits: ProxyLimits = ProxyLimits(),
    ) -> None:
        resolve = resolve or SystemResolver(asyncio.Semaphore(MAX_LOOKUPS), shared.lookups).resolve
        self._dialer = Dialer(policy, resolve, limits.lookup_s, limits.connect_s)
        self._refused = refused
        self._credentials = None if password is None else base64.b64encode(f"{USER}:{password}".encode())
        self._shared = shared
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.max_connections + MAX_REJECTING)
        self._connections = 0
        self._listeners: dict[socket.socket, Acceptor] = {}

    async def serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        self._listeners[listener] = Acceptor(listener, self._slots, self._serve_client)

    async def forget(self, listener: socket.socket) -> None:
        served = self._listeners.pop(listener, None)
        if served is not None:
            await served.close()

    async def close(self) -> None:
        await asyncio.gather(*(self.forget(listener) for listener in tuple(self._listeners)))

    async def _serve_client(self, client: socket.socket) -> None:
        self._connections += 1
        self._shared.connections += 1
        try:
            await self._answer(client)
        except OSError as error:
            log.debug("a connection through the proxy was lost", extra={"reason": error})
            sockets.reset(client)
        finally:
            self._connections -= 1
            self._shared.connections -= 1

    async def _answer(self, client: socket.socket) -> None:
        try:
            await self._serve_request(client)
        except Rejection as rejection:
            async with asyncio.timeout(self._limits.linger_s):
                await asyncio.get_running_loop().sock_sendall(client, rejection.encode())
        await self._linger(client)

    async def _serve_request(self, client: socket.socket) -> None:
        head, early = await self._read_head(client)
        if not head:
            return
        self._check_limits()
        request = parse_request(head)
        self._check_password(request)
        with await self._dial(request) as server:
            try:
                await self._connect(client, server, request, early)
            except BaseException:
                sockets.reset(server)
                raise

    async def _read_head(self, client: socket.socket) -> tuple[bytes, bytes]:
        try:
            async with asyncio.timeout(self._limits.head_s):
                return await sockets.read_head(client, strict=True)
        except TimeoutError:
            text = f"expected a whole request line with its headers within {self._limits.head_s:g} seconds"
            raise Rejection(HTTPStatus.REQUEST_TIMEOUT, text) from None

    def _check_limits(self) -> None:
        if self._connections > self._limits.max_connections:
            text = f"this Worker has {self._limits.max_connections} connections already"
            raise Rejection(HTTPStatus.SERVICE_UNAVAILABLE, text)
        if self._shared.connections > self._shared.max_connections:
            text = f"all Workers together have {self._shared.max_connections} connections already"
            raise Rejection(HTTPStatus.SERVICE_UNAVAILABLE, text)

    def _check_password(self, request: ProxyRequest) -> None:
        if self._credentials is None:
            return
        scheme, _, given = request.authorization.partition(" ")
        known = hmac.compare_digest(given.strip().encode("latin-1"), self._credentials)
        if scheme.lower() != BASIC or not known:
            text = "expected the user and the password that HTTP_PROXY and HTTPS_PROXY give this Worker"
            raise Rejection(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, text, CHALLENGE)

    async def _dial(self, request: ProxyRequest) -> socket.socket:
        try:
            return await self._dialer.dial(request)
        except Refused as refused:
            self._refused(str(request.host), request.port, refused.reason)
            raise

    async def _connect(
        self, client: socket.socket, server: socket.socket, request: ProxyRequest, early: bytes
    ) -> None:
        if request.head is None:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, ESTABLISHED)
            await loop.sock_sendall(server, early)
            await sockets.tunnel(client, server, self._limits.idle_s)
            return
        forwarding = Forwarding(client, server, request, self._limits.idle_s)
        try:
            await forwarding.run(early)
        except Rejection as rejection:
            if forwarding.responding:
                raise ConnectionAbortedError(errno.ECONNABORTED, rejection.text) from rejection
            raise

    async def _linger(self, client: socket.socket) -> None:
        sockets.end(client)
        try:
            async with asyncio.timeout(self._limits.linger_s):
                await sockets.drain(client)
        except TimeoutError:
            log.debug("a client of the proxy did not close its connection")
