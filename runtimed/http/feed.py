"""The observation feed over WebSockets."""

import asyncio
import logging
from typing import cast

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from runtimed.core.runtime import Runtime
from runtimed.errors import (
    CursorMalformed,
    FeedError,
    Internal,
    InvalidRequest,
    InvalidWorkerId,
    ObservationOnly,
    RuntimedError,
    SerializeFailed,
    UpstreamClosed,
    WorkerNotFound,
)
from runtimed.feed import Feed, Reader
from runtimed.http.binder import Routes
from runtimed.http.responses import SERVER
from runtimed.model.diagnostic import FeedDiagnostic, FeedDiagnosticCode
from runtimed.model.identity import EventCursor, WorkerRef, cursor_sequence
from runtimed.wire import routes as paths
from runtimed.wire.frames import diagnostic_frame

HEARTBEAT_S = 20.0
MAX_MESSAGE_BYTES = 2**20
CLOSE_TIMEOUT_S = 5.0
"""How long an observer may take to read what it is told at the end, and to close."""

CLOSE_CODES: dict[str, WSCloseCode] = {
    UpstreamClosed.code: WSCloseCode.GOING_AWAY,
    SerializeFailed.code: WSCloseCode.INTERNAL_ERROR,
    "runtime.unavailable": WSCloseCode.TRY_AGAIN_LATER,
}
"""How a socket is closed behind a diagnostic; any other is the observer's own doing, a policy violation."""

routes = Routes("feed")
log = logging.getLogger(__name__)


class Sockets:
    """The sockets of all observers of one feed, until `close`. Each is pinged every `heartbeat_s` seconds, and has
    half of that to answer."""

    def __init__(self, feed: Feed, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._feed = feed
        self._heartbeat_s = heartbeat_s
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, request: web.Request, ref: WorkerRef, cursor: str | None) -> web.WebSocketResponse:
        """Observe a Worker until the observer leaves or the feed ends. Raises InvalidRequest for no handshake."""
        socket = web.WebSocketResponse(
            heartbeat=self._heartbeat_s, timeout=CLOSE_TIMEOUT_S, max_msg_size=MAX_MESSAGE_BYTES, compress=False
        )
        if not socket.can_prepare(request).ok:
            raise InvalidRequest("expected a WebSocket handshake")
        socket.headers[hdrs.SERVER] = SERVER
        await socket.prepare(request)
        serving = asyncio.create_task(self._serve(request, socket, ref, cursor))
        self._serving.add(serving)
        try:
            await serving
        finally:
            self._serving.discard(serving)
            if socket.close_code == WSCloseCode.ABNORMAL_CLOSURE:
                _cut(request)  # a close would wait for ever for what the observer does not take
        return socket

    async def close(self) -> None:
        """End the feed, tell every observer, and wait until they are gone: at most twice CLOSE_TIMEOUT_S."""
        self._feed.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=2 * CLOSE_TIMEOUT_S)

    async def _serve(
        self, request: web.Request, socket: web.WebSocketResponse, ref: WorkerRef, cursor: str | None
    ) -> None:
        try:
            await self._observe(socket, ref, cursor)
        except ConnectionError:
            log.debug("an observer of %s is gone", ref.worker_id)
        except Exception as error:  # noqa: BLE001 every failure is told to the observer, in one way
            await _say_goodbye(request, socket, _diagnostic(error))

    async def _observe(self, socket: web.WebSocketResponse, ref: WorkerRef, cursor: str | None) -> None:
        with self._feed.open(ref, _parse(ref, cursor)) as reader:
            listening = asyncio.ensure_future(_listen(socket))
            sending = asyncio.ensure_future(_send(socket, reader))
            try:
                await asyncio.wait((listening, sending, self._feed.closing), return_when=asyncio.FIRST_COMPLETED)
                if not (listening.done() or sending.done()):
                    await asyncio.wait((sending,), timeout=CLOSE_TIMEOUT_S)
                if listening.done() or sending.done():
                    await (listening if listening.done() else sending)
                else:
                    raise UpstreamClosed
            finally:
                for task in (listening, sending):
                    task.cancel()
                await asyncio.gather(listening, sending, return_exceptions=True)


@routes.get(paths.WORKER_FEED, raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound))
async def observe_worker(
    runtime: Runtime, sockets: Sockets, request: web.Request, worker_id: str, cursor: str | None = None
) -> web.WebSocketResponse:
    """Observe a Worker over a WebSocket: a snapshot, then every event behind the cursor, then each as it happens."""
    ref = runtime.ref(worker_id)
    runtime.worker(ref)
    return await sockets.serve(request, ref, cursor)


def _parse(ref: WorkerRef, cursor: str | None) -> EventCursor | None:
    if cursor is None:
        return None
    sequence = cursor_sequence(cursor)
    if sequence is None:
        raise CursorMalformed
    return EventCursor(ref.runtime_id, sequence)


async def _send(socket: web.WebSocketResponse, reader: Reader) -> None:
    await socket.send_frame(await reader.snapshot(), WSMsgType.TEXT)
    while True:
        for frame in await reader.read():
            await socket.send_frame(frame, WSMsgType.TEXT)


async def _listen(socket: web.WebSocketResponse) -> None:
    """Wait for the observer to leave. Raises ObservationOnly when it speaks instead."""
    message = await socket.receive()
    if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
        raise ObservationOnly


def _diagnostic(error: Exception) -> FeedDiagnostic:
    if isinstance(error, FeedError):
        return FeedDiagnostic(cast("FeedDiagnosticCode", error.code), error.message)
    if isinstance(error, RuntimedError):
        return FeedDiagnostic("runtime.unavailable", error.message)
    log.error("a feed failed", exc_info=error)
    return FeedDiagnostic("runtime.unavailable", Internal().message)


async def _say_goodbye(request: web.Request, socket: web.WebSocketResponse, diagnostic: FeedDiagnostic) -> None:
    """Tell why, and close; an observer that does not read is cut off."""
    code = CLOSE_CODES.get(diagnostic.code, WSCloseCode.POLICY_VIOLATION)
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.send_frame(diagnostic_frame(diagnostic), WSMsgType.TEXT)
            await socket.close(code=code, message=diagnostic.code.encode())
    except (ConnectionError, TimeoutError):
        _cut(request)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
