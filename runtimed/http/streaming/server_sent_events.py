"""The observation feed as server-sent events, and as pages."""

import asyncio
import logging
import re
import socket
import sys

from aiohttp import HttpVersion11, hdrs, web

from runtimed.feed import Observer, WorkerOver
from runtimed.feed.encoding import ServerSentEvents
from runtimed.http.streaming.streams import CLOSE_TIMEOUT_S, FeedRequest, Streams, TokenEnded, diagnostic_of
from runtimed.http.web.responses import HEADERS, id_header
from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.model.identity import cursor_of
from runtimed.wire.converter import encode
from runtimed.wire.frames import chunk, comment, event_envelope, event_page, server_sent

EVENT_STREAM = "text/event-stream"
LAST_EVENT_ID = "Last-Event-ID"
NOT_AT_ALL = re.compile(r"q=0(\.0*)?", re.ASCII)
"""The weight of a media range in an Accept header that is not accepted."""

COMMENT_S = 15
"""How often a comment is written to a stream, in seconds, so that no proxy closes it as idle."""

STREAM_HEADERS = {**HEADERS, hdrs.CONTENT_TYPE: EVENT_STREAM, "X-Accel-Buffering": "no"}

log = logging.getLogger(__name__)


class Comments:
    """Writes comments to an event stream, which also detects that the observer has left.

    A comment carries the newest cursor, so that an observer that selects few events resumes after the others.
    """

    def __init__(self, observer: Observer, *, chunked: bool) -> None:
        self._observer = observer
        self._chunked = chunked

    def beat(self, *, late: bool) -> None:
        self._observer.write_aside(self.comment())

    def comment(self) -> bytes:
        """Return a comment with the cursor up to which everything is written."""
        text = comment(cursor_of(self._observer.sequence))
        return chunk(text) if self._chunked else text


def wants_stream(request: web.BaseRequest) -> bool:
    """Return whether the client accepts server-sent events."""
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower()
    return any(map(_is_stream, accepted.split(",")))


def _is_stream(media_range: str) -> bool:
    kind, *parameters = (part.strip() for part in media_range.split(";"))
    return kind == EVENT_STREAM and not any(map(NOT_AT_ALL.fullmatch, parameters))


async def serve_page(streams: Streams, wanted: FeedRequest, limit: int | None) -> web.Response:
    """Answer with a page of events from the store."""
    place = streams.place(wanted)
    page = await streams.feed.page(wanted.ref, wanted.selection, place, limit, principal=wanted.principal)
    envelopes = [
        event_envelope(event.sequence, event.worker_id, event.timestamp_ms, event.payload) for event in page.events
    ]
    return web.Response(body=event_page(envelopes, cursor_of(page.upto), page.has_more), headers=HEADERS)


async def serve_stream(streams: Streams, request: web.BaseRequest, wanted: FeedRequest) -> web.StreamResponse:
    """Write events as an event stream until the observer leaves or the feed ends.

    Raises:
        FeedError: The feed cannot begin at that cursor. Later errors are the last event of the stream.
    """
    streams.feed.check(wanted.ref, streams.place(wanted), wanted.principal)
    response = web.StreamResponse(headers={**STREAM_HEADERS, **id_header()})
    response.force_close()
    writer = await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    _expect_acknowledgements(request.transport, streams.patience_s)
    chunked = request.version >= HttpVersion11
    with streams.serving(request):
        try:
            async with streams.observe(request, writer, wanted, ServerSentEvents(chunked)) as observer:
                comments = Comments(observer, chunked=chunked)
                if wanted.ref is None:
                    observer.write(comments.comment())
                with streams.heartbeats.of(COMMENT_S).calling(comments):
                    await asyncio.get_running_loop().create_future()
        except ConnectionError:
            log.debug("an observer has disconnected")
        except (WorkerOver, TokenEnded):
            await _finish(request, response, b"")
        except Exception as error:  # noqa: BLE001 every failure becomes a last diagnostic
            await _say_goodbye(request, response, diagnostic_of(error))
    return response


def _expect_acknowledgements(transport: asyncio.Transport | None, patience_s: float) -> None:
    """End a TCP connection whose peer acknowledges or accepts nothing for `patience_s` seconds."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1_000 * patience_s))


async def _say_goodbye(request: web.BaseRequest, response: web.StreamResponse, diagnostic: FeedDiagnostic) -> None:
    """Send a diagnostic as the last event, and end the stream."""
    await _finish(request, response, server_sent("diagnostic", encode(diagnostic)))


async def _finish(request: web.BaseRequest, response: web.StreamResponse, last: bytes) -> None:
    """Write the last bytes and end the stream; cut an observer that does not read."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await response.write(last)
            await response.write_eof()
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
