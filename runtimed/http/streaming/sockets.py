"""The observation feed over WebSockets."""

import asyncio
import logging
from contextlib import ExitStack

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from runtimed.errors import InvalidRequest, SerializeFailed, UpstreamClosed
from runtimed.feed import Observer, WorkerOver
from runtimed.feed.encoding import SocketMessages
from runtimed.http.errors import ObservationOnly, SocketBroken
from runtimed.http.streaming.streams import CLOSE_TIMEOUT_S, FeedRequest, Streams, TokenEnded, diagnostic_of
from runtimed.http.web.responses import SERVER, id_header
from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.wire.frames import PING, diagnostic_frame, heartbeat_frame, text_message

MAX_MESSAGE_BYTES = 2**20
MESSAGES = SocketMessages()

CLOSE_CODES: dict[str, WSCloseCode] = {
    UpstreamClosed.code: WSCloseCode.GOING_AWAY,
    SerializeFailed.code: WSCloseCode.INTERNAL_ERROR,
    SocketBroken.code: WSCloseCode.PROTOCOL_ERROR,
    "runtime.unavailable": WSCloseCode.TRY_AGAIN_LATER,
}
"""The close code after a diagnostic. After any other diagnostic it is a policy violation."""

OVER = b"worker over"
"""The reason of the close at the end of `?until=over`."""

TOKEN_ENDED = b"token revoked or expired"
"""The reason of the close of an observer whose token is no longer valid."""

BROKEN = {
    WSCloseCode.PROTOCOL_ERROR: "expected whole WebSocket frames of a client",
    WSCloseCode.INVALID_TEXT: "expected text in UTF-8",
    WSCloseCode.MESSAGE_TOO_BIG: f"expected no message above {MAX_MESSAGE_BYTES} bytes",
}
"""What was expected instead of a broken message, by the close code of the WebSocket protocol."""

log = logging.getLogger(__name__)


class FeedSocket(web.WebSocketResponse):
    """The WebSocket of one observer, which must not send messages. Nothing is written after the close."""

    def __init__(self) -> None:
        super().__init__(timeout=CLOSE_TIMEOUT_S, max_msg_size=MAX_MESSAGE_BYTES, compress=False, autoping=False)
        self.headers.update({hdrs.SERVER: SERVER, **id_header()})
        self.observer: Observer | None = None
        self._heard = True

    def beat(self, *, late: bool) -> None:
        """Ping the observer, or cut one that has given no sign of life since the last beat.

        A ping arrives after everything that was written before it, so reading counts as a sign of life too.
        """
        if self.observer is None:
            return
        alive = self.observer.took_some() or self._heard or late
        if not alive:
            self.observer.abort()
        self._heard = False
        self.observer.write(PING)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close the socket. `receive` calls this after a broken message, which gets a diagnostic first."""
        if self.observer is not None:
            self.observer.mute()
        if code in BROKEN and not message and not self.closed:
            message = SocketBroken.code.encode()
            diagnostic = diagnostic_of(SocketBroken(BROKEN[WSCloseCode(code)]))
            await self.send_frame(diagnostic_frame(diagnostic), WSMsgType.TEXT)
        return await super().close(code=code, message=message, drain=drain)

    async def listen(self) -> None:
        """Wait until the observer leaves.

        Raises:
            ObservationOnly: The observer sent a message.
        """
        while True:
            message = await self.receive()
            self._heard = True
            if message.type is WSMsgType.PING:
                await self.pong(message.data)
            elif message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                raise ObservationOnly
            elif message.type is not WSMsgType.PONG:
                return


class HeartbeatFrames:
    """Writes the newest cursor to an observer that asked for it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def beat(self, *, late: bool) -> None:
        self._observer.write_aside(text_message(heartbeat_frame(self._observer.newest)))


async def serve_socket(
    streams: Streams, request: web.BaseRequest, wanted: FeedRequest, heartbeat_s: int | None
) -> web.WebSocketResponse:
    """Write events to a WebSocket until the observer leaves or the feed ends.

    Args:
        streams: The observers.
        request: The handshake.
        wanted: What the observer asks for.
        heartbeat_s: How often the newest cursor is written, in seconds; None for never.

    Raises:
        InvalidRequest: The request is no WebSocket handshake.
    """
    socket = FeedSocket()
    if request.method != hdrs.METH_GET or not socket.can_prepare(request).ok:
        raise InvalidRequest("expected a WebSocket handshake")
    writer = await socket.prepare(request)
    with streams.serving(request):
        try:
            async with streams.observe(request, writer, wanted, MESSAGES) as observer:
                await _attend(streams, socket, observer, heartbeat_s)
        except ConnectionError:
            log.debug("an observer has disconnected")
        except WorkerOver:
            await _close(request, socket, None, WSCloseCode.OK, OVER)
        except TokenEnded:
            await _close(request, socket, None, WSCloseCode.POLICY_VIOLATION, TOKEN_ENDED)
        except Exception as error:  # noqa: BLE001 every failure becomes a last diagnostic
            await _say_goodbye(request, socket, diagnostic_of(error))
    return socket


async def _attend(streams: Streams, socket: FeedSocket, observer: Observer, heartbeat_s: int | None) -> None:
    socket.observer = observer
    with ExitStack() as calling:
        calling.enter_context(streams.pings.calling(socket))
        if heartbeat_s is not None:
            calling.enter_context(streams.heartbeats.of(heartbeat_s).calling(HeartbeatFrames(observer)))
        await socket.listen()


async def _say_goodbye(request: web.BaseRequest, socket: FeedSocket, diagnostic: FeedDiagnostic) -> None:
    """Send a diagnostic as the last frame, and close."""
    code = CLOSE_CODES.get(diagnostic.code, WSCloseCode.POLICY_VIOLATION)
    await _close(request, socket, diagnostic_frame(diagnostic), code, diagnostic.code.encode())


async def _close(
    request: web.BaseRequest, socket: FeedSocket, last: bytes | None, code: WSCloseCode, reason: bytes
) -> None:
    """Send a last frame, if any, and close; cut an observer that does not read."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            if last is not None:
                await socket.send_frame(last, WSMsgType.TEXT)
            await socket.close(code=code, message=reason)
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
