"""Pass on one HTTP request, and the response to it."""

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus

from runtimed.execution.network import sockets
from runtimed.execution.network.body import scanner
from runtimed.execution.network.rejection import Rejection, malformed
from runtimed.execution.network.request import ProxyRequest, parse_response


class Forwarding:
    """One request on its way between a client and a server.

    Attributes:
        responding: Whether the client has been sent a part of the response.
    """

    def __init__(self, client: socket.socket, server: socket.socket, request: ProxyRequest, idle_s: float) -> None:
        self.responding = False
        self._client = client
        self._server = server
        self._request = request
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()

    async def run(self, early: bytes) -> None:
        """Pass on the request and the response, at the same time: a server may answer before it has the whole body.

        Args:
            early: What has arrived behind the head of the request.

        Raises:
            Rejection: The body is malformed, or the server does not answer.
            OSError: A connection is lost, or nothing was copied for `idle_s`.
        """
        try:
            async with sockets.idle_limit(self._idle_s) as touch:
                await self._both_ways(early, touch)
        except TimeoutError:
            raise self._failed(HTTPStatus.GATEWAY_TIMEOUT, "it took too long") from None

    async def _both_ways(self, early: bytes, touch: Callable[[], None]) -> None:
        sending = asyncio.ensure_future(self._send(early, touch))
        receiving = asyncio.ensure_future(self._receive(touch))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                await sending
            await receiving
        finally:
            await sockets.cancel(sending, receiving)

    async def _send(self, early: bytes, touch: Callable[[], None]) -> None:
        """Send the request. When the client ends after it, tell the server. Further requests are dropped."""
        head, body = self._request.head or b"", scanner(self._request.body)
        end = body.feed(early)
        if await self._send_part(head + early[:end]):
            touch()
            while not body.done:
                data = await self._loop.sock_recv(self._client, sockets.CHUNK)
                if not data:
                    raise malformed("the connection was closed within the body")
                if not await self._send_part(data[: body.feed(data)]):
                    return
                touch()
            await sockets.drain(self._client)
            sockets.end(self._server)

    async def _send_part(self, data: bytes) -> bool:
        """Send to the server, and return whether it still listens. If it doesn't, it may have answered already."""
        try:
            await self._loop.sock_sendall(self._server, data)
        except OSError:
            return False
        return True

    async def _receive(self, touch: Callable[[], None]) -> None:
        status = 100
        received = b""
        while 100 <= status < 200:
            status, head, received = await self._response_head(received)
            self.responding = True
            await self._loop.sock_sendall(self._client, head)
            touch()
        await self._loop.sock_sendall(self._client, received)
        await sockets.copy(self._server, self._client, touch)

    async def _response_head(self, received: bytes) -> tuple[int, bytes, bytes]:
        try:
            found, rest = await sockets.read_head(self._server, received, strict=False)
            status, head = parse_response(found)
        except (OSError, Rejection, ValueError) as error:
            raise self._failed(HTTPStatus.BAD_GATEWAY, "it sent no valid response of HTTP/1") from error
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise self._failed(HTTPStatus.BAD_GATEWAY, "it switched protocols without being asked")
        return status, head, rest

    def _failed(self, status: HTTPStatus, reason: str) -> Rejection:
        return Rejection(status, f"no response from {self._request.destination}: {reason}")
