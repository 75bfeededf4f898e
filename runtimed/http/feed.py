"""The observation feed, of one Worker and of all: the routes."""

from typing import Annotated, Literal, get_args

import attrs
from aiohttp import web

from runtimed.core.runtime import Runtime
from runtimed.errors import (
    CursorExpired,
    CursorMalformed,
    CursorUnknownOrExpired,
    InvalidQuery,
    InvalidRequest,
    InvalidWorkerId,
    LimitTooLarge,
    UpstreamClosed,
    WorkerNotFound,
)
from runtimed.feed import Selection
from runtimed.http.binder import Number, Routes
from runtimed.http.events import LAST_EVENT_ID, serve_page, serve_stream, wants_stream
from runtimed.http.labels import parse_labels
from runtimed.http.sockets import serve_socket
from runtimed.http.streams import Streams, Wish
from runtimed.model.event import Payload, Snapshot
from runtimed.model.identity import WorkerRef
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import EventsResponse

HEARTBEAT_S = 20.0
MAX_HEARTBEAT_S = 3_600

READING = (CursorMalformed, CursorUnknownOrExpired, CursorExpired, LimitTooLarge, UpstreamClosed)
"""What may be wrong with reading events by HTTP; on a socket they are diagnostics."""

NAMES = frozenset(kind.event for kind in get_args(Payload) if kind is not Snapshot)

Seconds = Annotated[int | None, Number(1, MAX_HEARTBEAT_S)]
Until = Literal["over"] | None
Limit = Annotated[int | None, Number(minimum=1, limit="max_event_batch_items")]

routes = Routes("feed")


@routes.get(paths.WORKER_FEED, raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound))
async def observe_worker(
    runtime: Runtime,
    streams: Streams,
    request: web.Request,
    worker_id: str,
    cursor: str | None = None,
    events: str | None = None,
    heartbeat: Seconds = None,
    until: Until = None,
) -> web.WebSocketResponse:
    """Observe a Worker over a WebSocket: a snapshot, then every event behind the cursor, then each as it happens."""
    wish = Wish(_known(runtime, worker_id), _selection((), events), cursor, until_over=until is not None)
    return await serve_socket(streams, request, wish, heartbeat)


@routes.get(paths.WORKER_EVENTS, raises=(InvalidWorkerId, WorkerNotFound, *READING))
async def read_worker_events(
    runtime: Runtime,
    streams: Streams,
    request: web.Request,
    worker_id: str,
    cursor: str | None = None,
    limit: Limit = None,
    events: str | None = None,
    until: Until = None,
) -> EventsResponse | web.StreamResponse:
    """The events of a Worker: a page, or with `Accept: text/event-stream` a stream of server-sent events."""
    wish = Wish(_known(runtime, worker_id), _selection((), events), cursor, until_over=until is not None)
    return await _read(streams, request, wish, limit)


@routes.get(paths.FLEET_FEED, raises=(InvalidRequest,))
async def observe_workers(
    streams: Streams,
    request: web.Request,
    cursor: str | None = None,
    label: tuple[str, ...] = (),
    events: str | None = None,
    heartbeat: Seconds = None,
) -> web.WebSocketResponse:
    """Observe all Workers over a WebSocket: every event behind the cursor, then each as it happens; no snapshots."""
    return await serve_socket(streams, request, Wish(None, _selection(label, events), cursor), heartbeat)


@routes.get(paths.FLEET_EVENTS, raises=READING)
async def read_events(
    streams: Streams,
    request: web.Request,
    cursor: str | None = None,
    limit: Limit = None,
    label: tuple[str, ...] = (),
    events: str | None = None,
) -> EventsResponse | web.StreamResponse:
    """The events of all Workers: a page, or with `Accept: text/event-stream` a stream of server-sent events."""
    return await _read(streams, request, Wish(None, _selection(label, events), cursor), limit)


async def _read(streams: Streams, request: web.Request, wish: Wish, limit: int | None) -> web.StreamResponse:
    if not wants_stream(request):
        if wish.until_over:
            raise InvalidQuery("until: is for sockets and event streams, not for pages")
        return await serve_page(streams, wish, limit)
    if limit is not None:
        raise InvalidQuery("limit: is for pages, not for an event stream")
    if last := request.headers.get(LAST_EVENT_ID):
        wish = attrs.evolve(wish, cursor=last, field=LAST_EVENT_ID)
    return await serve_stream(streams, request, wish)


def _known(runtime: Runtime, worker_id: str) -> WorkerRef:
    ref = runtime.ref(worker_id)
    runtime.worker(ref)
    return ref


def _selection(labels: tuple[str, ...], events: str | None) -> Selection:
    names = frozenset(events.split(",") if events is not None else ())
    if not names <= NAMES:
        raise InvalidQuery(f"events: expected some of {', '.join(sorted(NAMES))}, with commas between")
    return Selection(frozenset(parse_labels(labels).items()), names)
