"""The observation feed over a WebSocket."""

import asyncio
import contextlib
import logging
from typing import cast

import attrs
from aiohttp import WSCloseCode, WSMsgType, web

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
from runtimed.model.diagnostic import FeedDiagnostic, FeedDiagnosticCode
from runtimed.model.identity import EventCursor, WorkerRef, cursor_sequence
from runtimed.wire import routes as paths
from runtimed.wire.frames import diagnostic_frame

MAX_MESSAGE_BYTES = 2**20
CLOSE_TIMEOUT_S = 5.0
CLOSE_CODES: dict[str, WSCloseCode] = {
    UpstreamClosed.code: WSCloseCode.GOING_AWAY,
    SerializeFailed.code: WSCloseCode.INTERNAL_ERROR,
    "runtime.unavailable": WSCloseCode.TRY_AGAIN_LATER,
}
"""How a socket is closed behind a diagnostic; any other is the observer's own doing, a policy violation."""

routes = Routes("feed")
log = logging.getLogger(__name__)


@attrs.frozen
class FeedOptions:
    """How sockets are looked after: every `heartbeat_s` a ping, and half of that for its answer."""

    heartbeat_s: float = 20.0


@routes.get(paths.WORKER_FEED, raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound))
async def observe_worker(
    runtime: Runtime,
    feed: Feed,
    options: FeedOptions,
    request: web.Request,
    worker_id: str,
    cursor: str | None = None,
) -> web.WebSocketResponse:
    """Observe a Worker over a WebSocket: a snapshot, then every event behind the cursor, then each as it happens."""
    ref = runtime.ref(worker_id)
    runtime.worker(ref)
    socket = web.WebSocketResponse(
        heartbeat=options.heartbeat_s, timeout=CLOSE_TIMEOUT_S, max_msg_size=MAX_MESSAGE_BYTES, compress=False
    )
    if not socket.can_prepare(request).ok:
        raise InvalidRequest("expected a WebSocket handshake")
    await socket.prepare(request)
    try:
        await _observe(socket, feed, ref, cursor)
    except FeedError as error:
        await _say_goodbye(socket, error.code, error.message)
    except RuntimedError as error:
        await _say_goodbye(socket, "runtime.unavailable", error.message)
    except ConnectionError:
        log.debug("an observer of %s is gone", worker_id)
    except Exception:
        log.exception("a feed of %s failed", worker_id)
        await _say_goodbye(socket, "runtime.unavailable", Internal().message)
    return socket


async def _observe(socket: web.WebSocketResponse, feed: Feed, ref: WorkerRef, cursor: str | None) -> None:
    with feed.open(ref, _parse(ref, cursor)) as reader:
        listening = asyncio.ensure_future(_listen(socket))
        sending = asyncio.ensure_future(_send(socket, reader))
        try:
            await asyncio.wait((listening, sending), return_when=asyncio.FIRST_COMPLETED)
            await (listening if listening.done() else sending)
        finally:
            for task in (listening, sending):
                task.cancel()
            await asyncio.gather(listening, sending, return_exceptions=True)


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


async def _say_goodbye(socket: web.WebSocketResponse, code: str, message: str) -> None:
    diagnostic = FeedDiagnostic(cast("FeedDiagnosticCode", code), message)
    with contextlib.suppress(ConnectionError):
        await socket.send_frame(diagnostic_frame(diagnostic), WSMsgType.TEXT)
        await socket.close(code=CLOSE_CODES.get(code, WSCloseCode.POLICY_VIOLATION), message=code.encode())
