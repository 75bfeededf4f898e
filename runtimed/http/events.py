"""The observation feed as server-sent events, and as pages."""

import asyncio
import logging
import re
import socket
import sys

from aiohttp import HttpVersion11, hdrs, web

from runtimed.feed import Observer, WorkerOver
from runtimed.feed.encoding import ServerSentEvents
from runtimed.http.responses import HEADERS
from runtimed.http.streams import CLOSE_TIMEOUT_S, Streams, Wish, diagnostic_of
from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.model.identity import cursor_of
from runtimed.wire.converter import encode
from runtimed.wire.frames import chunk, comment, event_envelope, event_page, server_sent

EVENT_STREAM = "text/event-stream"
LAST_EVENT_ID = "Last-Event-ID"
NOT_AT_ALL = re.compile(r"q=0(\.0*)?", re.ASCII)
"""The weight, in an Accept header, of what is not accepted."""

COMMENT_S = 15
"""How often a stream is written a comment, so that nobody in between takes it for idle."""

STREAM_HEADERS = {**HEADERS, hdrs.CONTENT_TYPE: EVENT_STREAM, "X-Accel-Buffering": "no"}

log = logging.getLogger(__name__)


class Comments:
    """Writes a comment to an event stream now and then, which also finds out that the observer has left.

    With it goes the place, so that one who is shown little resumes behind what it was not shown.
    """

    def __init__(self, observer: Observer, *, chunked: bool) -> None:
        self._observer = observer
        self._chunked = chunked

    def beat(self, *, late: bool) -> None:
        """As Beating.beat."""
        self._observer.write_aside(self.comment())

    def comment(self) -> bytes:
        """A comment that tells up to where everything was written."""
        text = comment(cursor_of(self._observer.sequence))
        return chunk(text) if self._chunked else text


def wants_stream(request: web.Request) -> bool:
    """Whether server-sent events are asked for."""
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower()
    return any(map(_is_stream, accepted.split(",")))


def _is_stream(media_range: str) -> bool:
    kind, *parameters = (part.strip() for part in media_range.split(";"))
    return kind == EVENT_STREAM and not any(map(NOT_AT_ALL.fullmatch, parameters))


async def serve_page(streams: Streams, wish: Wish, limit: int | None) -> web.Response:
    """A page of events, assembled from what is stored."""
    page = await streams.feed.page(wish.ref, wish.selection, streams.place(wish), limit)
    envelopes = [
        event_envelope(event.sequence, event.worker_id, event.timestamp_ms, event.payload) for event in page.events
    ]
    return web.Response(body=event_page(envelopes, cursor_of(page.upto), page.has_more), headers=HEADERS)


async def serve_stream(streams: Streams, request: web.Request, wish: Wish) -> web.StreamResponse:
    """Have events observed as an event stream until the observer leaves or the feed ends.

    What is wrong before the first byte is raised, as by Feed.check; after that it is the last event.
    """
    streams.feed.check(wish.ref, streams.place(wish))
    response = web.StreamResponse(headers=STREAM_HEADERS)
    response.force_close()
    writer = await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    _expect_acknowledgements(request.transport, streams.patience_s)
    chunked = request.version >= HttpVersion11
    with streams.serving():
        try:
            async with streams.observe(request, writer, wish, ServerSentEvents(chunked)) as observer:
                comments = Comments(observer, chunked=chunked)
                if wish.ref is None:
                    observer.write(comments.comment())
                with streams.pulses.of(COMMENT_S).beating(comments):
                    await asyncio.get_running_loop().create_future()
        except ConnectionError:
            log.debug("an observer is gone")
        except WorkerOver:
            await _finish(request, response, b"")
        except Exception as error:  # noqa: BLE001 every failure is told to the observer, in one way
            await _say_goodbye(request, response, diagnostic_of(error))
    return response


def _expect_acknowledgements(transport: asyncio.Transport | None, patience_s: float) -> None:
    """Have a TCP connection end whose other side acknowledges, or takes, nothing of what it is sent for so long."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1_000 * patience_s))


async def _say_goodbye(request: web.Request, response: web.StreamResponse, diagnostic: FeedDiagnostic) -> None:
    """Send a diagnostic as the last event, and end the stream."""
    await _finish(request, response, server_sent("diagnostic", encode(diagnostic)))


async def _finish(request: web.Request, response: web.StreamResponse, last: bytes) -> None:
    """Write what is last and end the stream; an observer that does not read is cut off."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await response.write(last)
            await response.write_eof()
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
