"""What all observers of one Worker, or of all, share."""

import asyncio
import sys
from collections.abc import Sequence

from runtimed.core.runtime import Runtime
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import FeedError
from runtimed.feed.flusher import Flusher
from runtimed.feed.ring import Batch, Message, Ring
from runtimed.feed.scope import Scope
from runtimed.feed.snapshot import bounded
from runtimed.feed.view import EVERYTHING, Selection, View
from runtimed.wire.frames import event_name


class WorkerOver(Exception):
    """An observer that asked for it has the last event of a Worker that is stopped or cancelled."""


class Log:
    """The events of a whole view: the newest in a ring of messages, all others in the store's pages. Each reader
    selects from them.

    It lives while it has `readers`. Whoever has read up to `newest` either joins `tip`, which writes what comes to
    it, or waits for `more`.
    """

    def __init__(
        self, runtime: Runtime, view: View, scope: Scope, ring_bytes: int, paging: asyncio.Semaphore
    ) -> None:
        self.view = view
        self.readers = 0
        self.ended: FeedError | WorkerOver | None = WorkerOver() if view.until_over and scope.over else None
        self._runtime = runtime
        self._paging = paging
        self._scope = scope
        self._ring = Ring(scope.newest, ring_bytes)
        self.tip = Flusher(self._ring, view.encoding)
        self._more: asyncio.Future[None] | None = None

    @property
    def newest(self) -> int:
        """Up to here everything was taken in."""
        return self._ring.newest

    def append(self, events: Sequence[EncodedEvent]) -> None:
        """Take in newer events, and have them written to those who wait."""
        self._ring.append([self._message(event) for event in events], events[-1].sequence)
        self.tip.call()
        self._call()
        if self.view.until_over and self._scope.over:
            self.end(WorkerOver())

    def end(self, error: FeedError | WorkerOver) -> None:
        """There will be no more events: every reader ends with this, once it has read what there is."""
        self.ended = error
        self.tip.end(error)
        self._call()

    async def read(self, after: int, selection: Selection) -> Batch:
        """The next selected events behind a sequence; none and the same place only at the newest.

        Raises CursorExpired where they are not retained, and StoreError.
        """
        messages = self._ring.between(after, self.newest, selection)
        if messages is not None:
            return Batch(messages, self.newest)
        async with self._paging:
            newest = self.newest
            events = await self._scope.page(after)
        encode = self.view.encoding.event
        shown = [encode(event) for event in selected(events, selection, self._runtime)]
        return Batch(shown, events[-1].sequence if events else newest)

    async def snapshot(self, sequence: int) -> bytes | None:
        """The state of the Worker right behind a sequence, ready to be written; None where all are observed."""
        if self.view.ref is None:
            return None
        whole = await self._runtime.snapshot(self.view.ref, sequence)
        return self.view.encoding.snapshot(bounded(whole, self._runtime.limits.max_snapshot_bytes))

    async def more(self) -> None:
        """Wait until there is something new, or the end."""
        if self._more is None:
            self._more = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._more)

    def _message(self, event: EncodedEvent) -> Message:
        name = sys.intern(event_name(event.payload))
        return Message(event.sequence, self.view.encoding.event(event), name, self._runtime.labels(event.worker_id))

    def _call(self) -> None:
        if self._more is not None:
            self._more.set_result(None)
            self._more = None


def selected(events: Sequence[EncodedEvent], selection: Selection, runtime: Runtime) -> Sequence[EncodedEvent]:
    """Those of the events of a page that are shown."""
    if selection == EVERYTHING:
        return events
    return [event for event in events if selection.takes(event_name(event.payload), runtime.labels(event.worker_id))]
