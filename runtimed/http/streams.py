"""What all observers over HTTP share: the feed, the timers, how one is told that it ends, and the end of all."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import attrs
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from runtimed.errors import CursorMalformed, FeedError, Internal, RuntimedError, WorkerDeleted, WorkerNotFound
from runtimed.feed import Feed, Observer, Selection, View
from runtimed.feed.encoding import Encoding
from runtimed.http.pulse import Pulses
from runtimed.model.diagnostic import FeedDiagnostic, FeedDiagnosticCode
from runtimed.model.identity import EventCursor, WorkerRef, cursor_sequence

CLOSE_TIMEOUT_S = 5.0
"""How long an observer may take to read what it is told at the end, and to close."""

log = logging.getLogger(__name__)


@attrs.frozen
class Wish:
    """What an observer asked for: one Worker or all (`ref` None), which events, and behind which cursor; `field` is
    where that was named. With `until_over` the feed ends with its Worker."""

    ref: WorkerRef | None
    selection: Selection
    cursor: str | None
    field: str = "cursor"
    until_over: bool = False


class Streams:
    """The observers of one feed until `close`, on sockets and on event streams.

    A socket is pinged every `heartbeat_s` seconds, and cut when nothing was heard of it by the next time. So an
    observer that vanished is known within `patience_s`.
    """

    def __init__(self, feed: Feed, heartbeat_s: float) -> None:
        self.feed = feed
        self.pulses = Pulses()
        self.pings = self.pulses.of(heartbeat_s)
        self.patience_s = 2 * heartbeat_s
        self._serving = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """One more observer to wait for at the end."""
        self._serving += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._serving -= 1
            if not self._serving:
                self._idle.set()

    @asynccontextmanager
    async def observe(
        self, request: web.Request, writer: AbstractStreamWriter | None, wish: Wish, encoding: Encoding
    ) -> AsyncIterator[Observer]:
        """Have what is wished for written to the connection of a request while the context lasts.

        When the feed cannot go on the body is interrupted, and the reason raised: WorkerOver where all was written
        that was asked for.
        """
        if request.transport is None or writer is None:
            raise ConnectionResetError("the observer has left")
        view = View(wish.ref, encoding, wish.selection, wish.until_over)
        ending = _Ending()
        try:
            async with (
                ending.interrupting,
                self.feed.observe(view, self.place(wish), request.transport, writer.drain, ending.come) as observer,
            ):
                yield observer
        except TimeoutError:
            raise ending.reason from None

    def place(self, wish: Wish) -> EventCursor | None:
        """Where to begin, None for the newest. Raises CursorMalformed."""
        if wish.cursor is None:
            return None
        sequence = cursor_sequence(wish.cursor)
        if sequence is None:
            raise CursorMalformed(wish.field)
        return EventCursor(self.feed.runtime.runtime_id, sequence)

    async def close(self) -> None:
        """End the feed, tell every observer, and wait until they are gone: at most twice CLOSE_TIMEOUT_S."""
        self.feed.close()
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d observers did not leave in time", self._serving)


class _Ending:
    """Interrupts what is going on within `interrupting` once there is a reason: by TimeoutError, without a task."""

    def __init__(self) -> None:
        self.interrupting = asyncio.timeout(None)
        self._reasons: list[Exception] = []

    @property
    def reason(self) -> Exception:
        """The first one, which counts."""
        return self._reasons[0]

    def come(self, reason: Exception) -> None:
        """The feed cannot go on."""
        self._reasons.append(reason)
        if len(self._reasons) == 1:
            self.interrupting.reschedule(asyncio.get_running_loop().time())


def diagnostic_of(error: Exception) -> FeedDiagnostic:
    """What an observer is told last."""
    if isinstance(error, WorkerNotFound):
        error = WorkerDeleted()
    if isinstance(error, FeedError):
        return FeedDiagnostic(cast("FeedDiagnosticCode", error.code), error.message)
    if isinstance(error, RuntimedError):
        return FeedDiagnostic("runtime.unavailable", error.message)
    log.error("a feed failed", exc_info=error)
    return FeedDiagnostic("runtime.unavailable", Internal().message)
