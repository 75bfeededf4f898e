"""Routes of the observation feed, of one Worker and of all."""

from typing import Annotated, Literal, get_args

import attrs
from aiohttp import web

from runtimed.core.runtime import Runtime
from runtimed.errors import (
    CursorExpired,
    CursorMalformed,
    CursorUnknownOrExpired,
    InvalidRequest,
    InvalidWorkerId,
    LimitTooLarge,
    UpstreamClosed,
    WorkerNotFound,
)
from runtimed.feed import Selection
from runtimed.http.errors import InvalidQuery
from runtimed.http.streaming.server_sent_events import LAST_EVENT_ID, serve_page, serve_stream, wants_stream
from runtimed.http.streaming.sockets import serve_socket
from runtimed.http.streaming.streams import FeedRequest, Streams
from runtimed.http.web.binding import Routes
from runtimed.http.web.labels import parse_labels
from runtimed.http.web.query import Number
from runtimed.model.event import Payload, Snapshot
from runtimed.model.identity import WorkerRef
from runtimed.model.principal import Principal
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import EventsResponse

HEARTBEAT_S = 20.0
MAX_HEARTBEAT_S = 3_600

READING = (CursorMalformed, CursorUnknownOrExpired, CursorExpired, LimitTooLarge, UpstreamClosed)
"""The errors of pages and event streams; on a WebSocket they are diagnostics."""

NAMES = frozenset(kind.event for kind in get_args(Payload) if kind is not Snapshot)

Seconds = Annotated[int | None, Number(1, MAX_HEARTBEAT_S)]
Until = Literal["over"] | None
Limit = Annotated[int | None, Number(minimum=1, limit="max_event_batch_items")]

routes = Routes("feed")


@routes.get(paths.WORKER_FEED, "read", raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound))
async def observe_worker(
    runtime: Runtime,
    streams: Streams,
    principal: Principal,
    request: web.BaseRequest,
    worker_id: str,
    cursor: str | None = None,
    events: str | None = None,
    heartbeat: Seconds = None,
    until: Until = None,
) -> web.WebSocketResponse:
    """Observe a Worker over a WebSocket: a snapshot, every event after the cursor, then each new event."""
    ref, over = _known(runtime, worker_id, principal), until is not None
    wanted = FeedRequest(ref, _selection((), events), cursor, principal, until_over=over)
    return await serve_socket(streams, request, wanted, heartbeat)


@routes.get(paths.WORKER_EVENTS, "read", raises=(InvalidWorkerId, WorkerNotFound, *READING))
async def read_worker_events(
    runtime: Runtime,
    streams: Streams,
    principal: Principal,
    request: web.BaseRequest,
    worker_id: str,
    cursor: str | None = None,
    limit: Limit = None,
    events: str | None = None,
    until: Until = None,
) -> EventsResponse | web.StreamResponse:
    """Get a page of the events of a Worker, or a stream of them with `Accept: text/event-stream`."""
    ref, over = _known(runtime, worker_id, principal), until is not None
    wanted = FeedRequest(ref, _selection((), events), cursor, principal, until_over=over)
    return await _read(streams, request, wanted, limit)


@routes.get(paths.FLEET_FEED, "read", raises=(InvalidRequest,))
async def observe_workers(
    streams: Streams,
    principal: Principal,
    request: web.BaseRequest,
    cursor: str | None = None,
    label: tuple[str, ...] = (),
    events: str | None = None,
    heartbeat: Seconds = None,
) -> web.WebSocketResponse:
    """Observe all Workers over a WebSocket: every event after the cursor, then each new event, without snapshots."""
    wanted = FeedRequest(None, _selection(label, events), cursor, principal)
    return await serve_socket(streams, request, wanted, heartbeat)


@routes.get(paths.FLEET_EVENTS, "read", raises=READING)
async def read_events(
    streams: Streams,
    principal: Principal,
    request: web.BaseRequest,
    cursor: str | None = None,
    limit: Limit = None,
    label: tuple[str, ...] = (),
    events: str | None = None,
) -> EventsResponse | web.StreamResponse:
    """Get a page of the events of all Workers, or a stream of them with `Accept: text/event-stream`."""
    wanted = FeedRequest(None, _selection(label, events), cursor, principal)
    return await _read(streams, request, wanted, limit)


async def _read(
    streams: Streams, request: web.BaseRequest, wanted: FeedRequest, limit: int | None
) -> web.StreamResponse:
    if not wants_stream(request):
        if wanted.until_over:
            raise InvalidQuery("until: accepted by WebSockets and event streams, not by pages")
        return await serve_page(streams, wanted, limit)
    if limit is not None:
        raise InvalidQuery("limit: accepted by pages, not by event streams")
    if last := request.headers.get(LAST_EVENT_ID):
        wanted = attrs.evolve(wanted, cursor=last, field=LAST_EVENT_ID)
    return await serve_stream(streams, request, wanted)


def _known(runtime: Runtime, worker_id: str, principal: Principal) -> WorkerRef:
    ref = runtime.ref(worker_id)
    runtime.worker(ref, principal=principal)
    return ref


def _selection(labels: tuple[str, ...], events: str | None) -> Selection:
    names = frozenset(events.split(",") if events is not None else ())
    if not names <= NAMES:
        raise InvalidQuery(f"events: expected some of {', '.join(sorted(NAMES))}, separated by commas")
    return Selection(frozenset(parse_labels(labels).items()), names)
