"""Send requests and open feeds with aiohttp."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from runtimectl.client.address import Address
from runtimectl.client.feed import CLOSE_TIMEOUT_S, MAX_FRAME_BYTES, OPEN_TIMEOUT_S
from runtimectl.client.http import check_process
from runtimectl.client.http_response import MAX_RESPONSE_BYTES
from runtimectl.client.tls import reason, refuses_client
from runtimectl.errors import ControlError, DaemonFailed, NotConnected, TimedOut, Unreachable, error_from_response
from runtimectl.library import calls
from runtimectl.library.arguments import check_times
from runtimectl.library.calls import Call
from runtimectl.library.connections import Connections
from runtimectl.library.daemon import Finder
from runtimectl.library.repeats import Repeats

PING_INTERVAL_S = 20.0
"""Seconds between two pings of a feed: a connection whose other end is gone is found out."""

T = TypeVar("T")


class AsyncTransport:
    """Sends requests to one daemon. Its connections belong to the event loop of the first request.

    Args:
        find: Finds the daemon; called again whenever it cannot be reached.
        timeout: How long the daemon may be silent, in seconds.
        reconnect_for: How long a request is repeated if its answer was lost or the daemon is away, in seconds.

    Raises:
        UsageProblem: A time is out of range.
    """

    def __init__(self, find: Finder, timeout: float, reconnect_for: float) -> None:
        self._find = find
        self._timeout = timeout
        self.reconnect_for = reconnect_for
        self._runtime_id: str | None = None
        self._address: Address | None = None
        self._has_reached = False
        self._connections: Connections | None = None
        self._finding = asyncio.Lock()
        check_times(timeout, reconnect_for)

    async def send(self, call: Call[T]) -> T:
        """Send a request, again if its answer was lost and it is repeatable, and return the answer.

        Raises:
            ClientError: The daemon refused it, failed, or could not be reached.
        """
        repeats = Repeats(call, self.reconnect_for, has_reached=self._has_reached)
        while True:
            try:
                return await self._attempt(call)
            except ControlError as error:
                await asyncio.sleep(repeats.next_delay(error))

    async def find(self) -> Address:
        """Find the daemon anew, the same Runtime as before. Raises NotConnected if there is none."""
        async with self._finding:
            try:
                address = await asyncio.to_thread(self._find, self._runtime_id)
            except Unreachable as error:
                raise NotConnected(str(error)) from None
            if self._connections is None or address != self._address:
                await self.close()
                self._connections = await Connections.open(address)
            self._address = address
            return address

    async def runtime_id(self) -> str:
        """Return the id of the Runtime, asking for it once. From then on, only a daemon of this Runtime is found."""
        if self._runtime_id is None:
            self._runtime_id = (await self.send(calls.runtime())).runtime_id
        return self._runtime_id

    async def close(self) -> None:
        """Close all connections."""
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    @asynccontextmanager
    async def feed(self, path: str, probe: Call[Any]) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
        """Open a feed.

        Args:
            path: Its path.
            probe: A request that is refused for the same reason: aiohttp drops the body of a refused handshake.

        Raises:
            ControlError: The daemon refused it, or the connection was lost.
        """
        address, session = await self._ready()
        timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                socket = await session.ws_connect(
                    _url(address, path),
                    headers=address.headers,
                    timeout=timeout,
                    heartbeat=PING_INTERVAL_S,
                    max_msg_size=MAX_FRAME_BYTES,
                )
        except aiohttp.WSServerHandshakeError as error:
            await self.send(probe)
            raise error_from_response(error.status, b"", address.searched) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _lost(address, error, OPEN_TIMEOUT_S) from None
        try:
            yield socket
        finally:
            await socket.close()

    async def _attempt(self, call: Call[T]) -> T:
        """Send a request once; if the daemon has moved, to where it is now."""
        before = self._address
        try:
            return await self._exchange(call)
        except NotConnected:
            if before is None or await self.find() == before:
                raise
        return await self._exchange(call)

    async def _exchange(self, call: Call[T]) -> T:
        address, session = await self._ready()
        silence = max(self._timeout, call.least_timeout)
        headers = {**address.headers, **call.headers}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with session.request(
                call.method,
                _url(address, call.path),
                data=call.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence),
                allow_redirects=False,
            ) as response:
                body = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._address = None
            raise _lost(address, error, silence) from None
        self._has_reached = True
        if response.status not in {200, 204}:
            raise error_from_response(response.status, body, address.searched)
        return call.read(body)

    async def _ready(self) -> tuple[Address, aiohttp.ClientSession]:
        """Return the daemon, and the connections to it.

        A token that came with an endpoint file is for the process that the file names, and for no other.
        """
        address = self._address or await self.find()
        if not address.has_given_token:
            await asyncio.to_thread(check_process, address)
        async with self._finding:
            if self._connections is None:
                self._connections = await Connections.open(address)
            return address, self._connections.session


def _url(address: Address, path: str) -> URL:
    scheme = "https" if address.tls else "http"
    return URL(f"{scheme}://{address.authority}{address.prefix}{path}", encoded=True)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body. Raises DaemonFailed above MAX_RESPONSE_BYTES."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_RESPONSE_BYTES:
            raise DaemonFailed(f"the answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return bytes(body)


def _lost(address: Address, error: Exception, timeout: float) -> ControlError:
    """Return the error for a request that got no answer."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else None
    if isinstance(error, aiohttp.ClientConnectorCertificateError) and cause is None:
        cause = error.os_error
    if cause is not None and refuses_client(cause):
        return NotConnected(f"cannot reach {address.url}: {reason(cause)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return NotConnected(f"cannot reach {address.url}: {reason(cause or error)}")
    if isinstance(error, TimeoutError):
        return TimedOut(f"{address.url} did not answer within {timeout:g} s")
    return Unreachable(f"cannot reach {address.url}: {str(error) or type(error).__name__}")
