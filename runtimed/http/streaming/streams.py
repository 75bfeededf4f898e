"""The parts that all observers over HTTP share: the feed, heartbeats, last diagnostics, and the shutdown."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import cast

import attrs
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from runtimed.errors import CursorMalformed, FeedError, Internal, RuntimedError, WorkerDeleted, WorkerNotFound
from runtimed.feed import Feed, Observer, Selection, View
from runtimed.feed.encoding import Encoding
from runtimed.http.streaming.heartbeat import Heartbeats
from runtimed.http.web.sessions import SESSION
from runtimed.model.diagnostic import FeedDiagnostic, FeedDiagnosticCode
from runtimed.model.identity import EventCursor, WorkerRef, cursor_sequence
from runtimed.model.principal import Principal

CLOSE_TIMEOUT_S = 5.0
"""How long an observer may take to read its last message and to close, in seconds."""

TOKEN_ENDED_S = 1.0
"""How long an observer may take to close once its token has ended, in seconds. Then its connection is cut."""

log = logging.getLogger(__name__)


@attrs.frozen
class FeedRequest:
    """What an observer asks for.

    Attributes:
        ref: The Worker, or None for all Workers.
        selection: Which events.
        cursor: The cursor after which the events begin, or None for new events only.
        principal: Who observes.
        field: The parameter or header that named the cursor.
        until_over: Whether the feed ends when its Worker is over.
    """

    ref: WorkerRef | None
    selection: Selection
    cursor: str | None
    principal: Principal
    field: str = "cursor"
    until_over: bool = False


class TokenEnded(Exception):
    """The observer's token was revoked, or has expired."""


class Streams:
    """The observers of one feed, on WebSockets and on event streams, until `close`.

    Args:
        feed: The feed.
        heartbeat_s: How often a WebSocket is pinged, in seconds. One that has given no sign of life by the next ping
            is cut, so a client that vanished is noticed within two periods.
    """

    def __init__(self, feed: Feed, heartbeat_s: float) -> None:
        self.feed = feed
        self.heartbeats = Heartbeats()
        self.pings = self.heartbeats.of(heartbeat_s)
        self.patience_s = 2 * heartbeat_s
        self._serving = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def serving(self, request: web.BaseRequest) -> Iterator[None]:
        """Count an observer that `close` waits for, while the context lasts. It is cut soon after its token ends."""
        self._serving += 1
        self._idle.clear()
        try:
            with request[SESSION].calling(partial(_cut_soon, request.transport)):
                yield
        finally:
            self._serving -= 1
            if not self._serving:
                self._idle.set()

    @asynccontextmanager
    async def observe(
        self, request: web.BaseRequest, writer: AbstractStreamWriter | None, wanted: FeedRequest, encoding: Encoding
    ) -> AsyncIterator[Observer]:
        """Write the requested events to the connection of a request while the context lasts.

        Raises:
            WorkerOver: Everything that was asked for has been written.
            TokenEnded: The token that the request was admitted with is no longer valid.
            Exception: The feed cannot go on. The body of the context is interrupted, and the reason raised.
        """
        if request.transport is None or writer is None:
            raise ConnectionResetError("the observer has left")
        view = View(wanted.ref, encoding, wanted.selection, wanted.until_over)
        ending = _Ending()
        try:
            async with ending.interrupting():
                with request[SESSION].calling(partial(ending.come, TokenEnded())):
                    observing = self.feed.observe(
                        view,
                        self.place(wanted),
                        request.transport,
                        writer.drain,
                        ending.come,
                        principal=wanted.principal,
                    )
                    async with observing as observer:
                        yield observer
        except TimeoutError:
            raise ending.reason from None
        finally:
            ending.forget()

    def place(self, wanted: FeedRequest) -> EventCursor | None:
        """Return the cursor after which to begin, or None for new events only.

        Raises:
            CursorMalformed: The text is not a cursor.
        """
        if wanted.cursor is None:
            return None
        sequence = cursor_sequence(wanted.cursor)
        if sequence is None:
            raise CursorMalformed(wanted.field)
        return EventCursor(self.feed.runtime.runtime_id, sequence)

    async def close(self) -> None:
        """End the feed and every observer, and wait until they are gone, at most twice CLOSE_TIMEOUT_S."""
        self.feed.close()
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("observers did not close in time", extra={"count": self._serving})


class _Ending:
    """Interrupts the body of `interrupting` with TimeoutError once there is a reason. It needs no task."""

    def __init__(self) -> None:
        self._interrupting: asyncio.Timeout | None = None
        self._reasons: list[Exception] = []

    def interrupting(self) -> asyncio.Timeout:
        """Return the context. It refers to the task of the connection, so `forget` has to be called behind it."""
        self._interrupting = asyncio.timeout(None)
        return self._interrupting

    def forget(self) -> None:
        """Let go of the task: an observer that has left frees its memory at once."""
        self._interrupting = None

    @property
    def reason(self) -> Exception:
        """The first reason that came; later ones are ignored."""
        return self._reasons[0]

    def come(self, reason: Exception) -> None:
        """Interrupt the body: the feed cannot go on."""
        self._reasons.append(reason)
        if len(self._reasons) == 1 and self._interrupting is not None:
            self._interrupting.reschedule(asyncio.get_running_loop().time())


def _cut_soon(transport: asyncio.Transport | None) -> None:
    """Cut a connection after TOKEN_ENDED_S, also one that is closing but whose client does not read the rest."""
    if transport is not None:
        asyncio.get_running_loop().call_later(TOKEN_ENDED_S, transport.abort)


def diagnostic_of(error: Exception) -> FeedDiagnostic:
    """Return the last diagnostic of an observer whose feed ends with this error."""
    if isinstance(error, WorkerNotFound):
        error = WorkerDeleted()
    if isinstance(error, FeedError):
        return FeedDiagnostic(cast("FeedDiagnosticCode", error.code), error.message)
    if isinstance(error, RuntimedError):
        return FeedDiagnostic("runtime.unavailable", error.message)
    log.error("a feed failed", exc_info=error)
    return FeedDiagnostic("runtime.unavailable", Internal().message)
