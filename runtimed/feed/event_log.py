"""The event log of a view, which all of its readers and observers share."""

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
    """The last event of a stopped or cancelled Worker was written to an observer that asked to end there."""


class EventLog:
    """The events of an unfiltered view: the newest in a ring of messages, the others in the store's pages.

    The feed drops a log when it has no readers. An observer that has everything joins `synced`; a reader waits for
    `more`.

    Attributes:
        view: The view, without a selection. Each reader selects for itself.
        readers: How many readers and observers use the log.
        ended: Why there will be no more events, or None.
        synced: Writes new events to the observers that have all earlier ones.
    """

    def __init__(
        self, runtime: Runtime, view: View, scope: Scope, ring_bytes: int, paging: asyncio.Semaphore
    ) -> None:
        """Start a log at the newest event.

        Args:
            runtime: Gives snapshots and labels.
            view: The view, without a selection.
            scope: Gives the pages of the store.
            ring_bytes: The bytes of the newest messages to keep in memory.
            paging: Limits the pages that are read at a time.
        """
        self.view = view
        self.readers = 0
        self.ended: FeedError | WorkerOver | None = WorkerOver() if view.until_over and scope.is_over else None
        self._runtime = runtime
        self._paging = paging
        self._scope = scope
        self._ring = Ring(scope.newest, ring_bytes)
        self.synced = Flusher(self._ring, view.encoding)
        self._more: asyncio.Future[None] | None = None

    @property
    def newest(self) -> int:
        """The sequence of the newest event that was appended."""
        return self._ring.newest

    def append(self, events: Sequence[EncodedEvent]) -> None:
        """Append newer events, and schedule their writing."""
        self._ring.append([self._message(event) for event in events], events[-1].sequence)
        self.synced.schedule()
        self.wake_readers()
        if self.view.until_over and self._scope.is_over:
            self.end(WorkerOver())

    def end(self, error: FeedError | WorkerOver) -> None:
        """Accept no more events. Every reader ends with this error once it has read everything."""
        self.ended = error
        self.synced.end(error)
        self.wake_readers()

    async def read(self, after: int, selection: Selection) -> Batch:
        """Read the next events, from the ring if it holds them, else one page of the store.

        Args:
            after: Read events after this sequence.
            selection: Which events to return.

        Returns:
            The selected events. The batch ends after `after`, unless `after` is the newest sequence.

        Raises:
            CursorExpired: The events are no longer retained.
            StoreError: The store could not be read.
        """
        messages = self._ring.between(after, self.newest, selection)
        if messages is not None:
            return Batch(messages, self.newest)
        async with self._paging:
            newest = self.newest
            page = await self._scope.page(after)
        encode = self.view.encoding.event
        shown = [encode(event) for event in selected(page.events, selection, self._runtime)]
        return Batch(shown, min(page.upto, newest))

    async def snapshot(self, sequence: int) -> bytes | None:
        """Return the encoded state of the Worker right after a sequence, or None if the log is of all Workers."""
        if self.view.ref is None:
            return None
        whole = await self._runtime.snapshot(self.view.ref, sequence)
        return self.view.encoding.snapshot(bounded(whole, self._runtime.limits.max_snapshot_bytes))

    def wake_readers(self) -> None:
        """Have readers look again, as if there were new events."""
        if self._more is not None:
            self._more.set_result(None)
            self._more = None

    async def more(self) -> None:
        """Wait until there are new events, the log has ended, or `wake_readers` was called."""
        if self._more is None:
            self._more = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._more)

    def _message(self, event: EncodedEvent) -> Message:
        name = sys.intern(event_name(event.payload))
        return Message(event.sequence, self.view.encoding.event(event), name, self._runtime.labels(event.worker_id))


def selected(events: Sequence[EncodedEvent], selection: Selection, runtime: Runtime) -> Sequence[EncodedEvent]:
    """Return the events that are selected."""
    if selection == EVERYTHING:
        return events
    return [
        event for event in events if selection.matches(event_name(event.payload), runtime.labels(event.worker_id))
    ]
