"""The feed of a Runtime: what was published, for as many readers as there are."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs

from runtimed.core.runtime import Runtime
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import CursorExpired, CursorUnknownOrExpired, UpstreamClosed, WorkerDeleted, WrongRuntimeCursor
from runtimed.feed.encoding import Envelopes
from runtimed.feed.log import Log, selected
from runtimed.feed.observer import Observer
from runtimed.feed.reader import Reader
from runtimed.feed.scope import Scope, scope_of
from runtimed.feed.unread import MAX_UNREAD_BYTES, Unread
from runtimed.feed.view import Selection, View
from runtimed.model.identity import EventCursor, WorkerId, WorkerRef

RING_BYTES = 2**20
"""How many bytes of the newest messages of a Worker, or of all, are kept in each encoding while somebody reads it."""

PAGES_AT_ONCE = 4
"""How many pages of the store are read and put into messages at a time, so that many who resume at once hold up
nobody else."""


@attrs.frozen
class Page:
    """Events that are shown, up to which sequence that is all, and whether there are events behind it."""

    events: Sequence[EncodedEvent]
    upto: int
    has_more: bool


class Feed:
    """Opens readers and observers. It listens to its Runtime from the start until `close`."""

    def __init__(
        self, runtime: Runtime, ring_bytes: int = RING_BYTES, max_unread_bytes: int = MAX_UNREAD_BYTES
    ) -> None:
        self.runtime = runtime
        self._ring_bytes = ring_bytes
        self._unread = Unread(max_unread_bytes)
        self._paging = asyncio.Semaphore(PAGES_AT_ONCE)
        self._logs: dict[WorkerId | None, list[Log]] = {}
        self._closed = False
        runtime.subscribe(self)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """See Listener."""
        for log in (*self._logs.get(worker_id, ()), *self._logs.get(None, ())):
            log.append(events)

    def forget(self, worker_id: WorkerId) -> None:
        """See Listener."""
        for log in self._logs.get(worker_id, ()):
            log.end(WorkerDeleted())

    @contextmanager
    def open(self, ref: WorkerRef | None = None, cursor: EventCursor | None = None) -> Iterator[Reader]:
        """A reader of a Worker, or of all, behind the cursor or behind the newest event; for programs that embed.

        Raises as `check`.
        """
        with self._log(View(ref, Envelopes()), cursor) as (log, sequence):
            yield Reader(log, sequence)

    @asynccontextmanager
    async def observe(
        self,
        view: View,
        cursor: EventCursor | None,
        transport: asyncio.WriteTransport,
        drain: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[Exception], None],
    ) -> AsyncIterator[Observer]:
        """Have a view written to a transport, from the cursor or the newest event on, until the context is left.

        An observer of one Worker is written a snapshot first. `ended` is called with Unavailable where observers have
        left too much unread, and this one the most. See Observer for the rest. Raises as `check`.
        """
        with self._log(view, cursor) as (log, sequence):
            observer = Observer(log, sequence, view.selection, transport, drain, ended, self._unread)
            try:
                yield observer
            finally:
                await observer.close()

    async def page(
        self, ref: WorkerRef | None, selection: Selection, cursor: EventCursor | None, limit: int | None
    ) -> Page:
        """At most one page of the store, from the cursor or the oldest retained event on. Raises as `check`, and
        LimitTooLarge, CursorExpired, StoreError."""
        scope = self.check(ref, cursor)
        items, newest = self.runtime.limits.max_event_batch_items if limit is None else limit, scope.newest
        if cursor is None:
            after, events = await _oldest(scope, items)
        else:
            after, events = cursor.sequence, await scope.page(cursor.sequence, items)
        upto = events[-1].sequence if events else max(after, newest)
        return Page(selected(events, selection, self.runtime), upto, upto < newest)

    def check(self, ref: WorkerRef | None, cursor: EventCursor | None) -> Scope:
        """Where a reader at this cursor would read. Raises WorkerNotFound, WrongRuntimeCursor,
        CursorUnknownOrExpired, UpstreamClosed."""
        if self._closed:
            raise UpstreamClosed
        scope = scope_of(self.runtime, ref)
        retained_after = scope.retained_after
        if cursor is None:
            return scope
        if cursor.runtime_id != self.runtime.runtime_id:
            raise WrongRuntimeCursor(f"cursor: expected one of runtime {self.runtime.runtime_id}")
        if not retained_after <= cursor.sequence <= self.runtime.head:
            raise CursorUnknownOrExpired
        return scope

    @contextmanager
    def _log(self, view: View, cursor: EventCursor | None) -> Iterator[tuple[Log, int]]:
        """The log that a view shows some of, while it is read, and the sequence to begin behind."""
        scope = self.check(view.ref, cursor)
        sequence = scope.newest if cursor is None else cursor.sequence
        log = self._find(view.whole) or Log(self.runtime, view.whole, scope, self._ring_bytes, self._paging)
        logs = self._logs.setdefault(_key(view), [])
        if log not in logs:
            logs.append(log)
        log.readers += 1
        try:
            yield log, sequence
        finally:
            log.readers -= 1
            if not log.readers:
                logs.remove(log)
                if not logs:
                    del self._logs[_key(view)]

    def _find(self, view: View) -> Log | None:
        return next((log for log in self._logs.get(_key(view), ()) if log.view == view and log.ended is None), None)

    def close(self) -> None:
        """End every reader with UpstreamClosed, once it has read what there is. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self.runtime.unsubscribe(self)
            for log in [log for logs in self._logs.values() for log in logs]:
                log.end(UpstreamClosed())


async def _oldest(scope: Scope, items: int) -> tuple[int, Sequence[EncodedEvent]]:
    """The first page that is retained, and behind which sequence it is; trimming may get ahead of it."""
    while True:
        after = scope.retained_after
        try:
            return after, await scope.page(after, items)
        except CursorExpired:
            continue


def _key(view: View) -> WorkerId | None:
    return None if view.ref is None else view.ref.worker_id
