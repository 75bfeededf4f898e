"""The feed of a Runtime: opens readers, observers and pages over its published events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs

from runtimed.core.runtime import Runtime
from runtimed.core.state.change import EncodedEvent, EventPage
from runtimed.errors import CursorExpired, CursorUnknownOrExpired, UpstreamClosed, WorkerDeleted, WrongRuntimeCursor
from runtimed.feed.encoding import Envelopes
from runtimed.feed.event_log import EventLog, selected
from runtimed.feed.observer import Observer
from runtimed.feed.reader import Reader
from runtimed.feed.scope import Scope, scope_of
from runtimed.feed.unread import MAX_UNREAD_BYTES, Unread
from runtimed.feed.view import EVERYTHING, Selection, View
from runtimed.model.identity import EventCursor, WorkerId, WorkerRef
from runtimed.model.principal import ADMIN, Principal

RING_BYTES = 2**20
"""The bytes of the newest messages that each log keeps in memory. Each scope and encoding in use has one."""

PAGES_AT_ONCE = 4
"""The pages of the store that are read and encoded at a time, so that many resuming observers do not delay others."""


@attrs.frozen
class Page:
    """A page of selected events.

    Attributes:
        events: The selected events, oldest first.
        upto: The sequence up to which the page is complete. The next page starts after it.
        has_more: There are events after `upto`.
    """

    events: Sequence[EncodedEvent]
    upto: int
    has_more: bool


class Feed:
    """Opens readers and observers. It is subscribed to its Runtime from construction until `close`."""

    def __init__(
        self, runtime: Runtime, ring_bytes: int = RING_BYTES, max_unread_bytes: int = MAX_UNREAD_BYTES
    ) -> None:
        """Subscribe to a Runtime.

        Args:
            runtime: Where events come from.
            ring_bytes: The bytes of the newest messages that each log keeps in memory.
            max_unread_bytes: The bytes that may wait in memory for all observers together.
        """
        self.runtime = runtime
        self._ring_bytes = ring_bytes
        self._unread = Unread(max_unread_bytes)
        self._paging = asyncio.Semaphore(PAGES_AT_ONCE)
        self._logs: dict[WorkerId | None, list[EventLog]] = {}
        self._tenant_logs: dict[str | None, list[EventLog]] = {}
        self._observers: set[Observer] = set()
        self._closed = False
        runtime.subscribe(self)

    @property
    def observer_count(self) -> int:
        """How many observers there are."""
        return len(self._observers)

    def max_lag(self) -> int:
        """Return by how much the slowest observer is behind, in sequences."""
        return max((observer.lag for observer in self._observers), default=0)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        for log in (*self._logs.get(worker_id, ()), *self._logs.get(None, ())):
            log.append(events)
        if self._tenant_logs:
            for log in tuple(self._tenant_logs.get(self.runtime.tenant(worker_id), ())):
                log.append(events)

    def forget(self, worker_id: WorkerId) -> None:
        for log in self._logs.get(worker_id, ()):
            log.end(WorkerDeleted())

    def changed(self, worker_id: WorkerId) -> None:
        for log in self._logs.get(worker_id, ()):
            log.wake_readers()

    @contextmanager
    def open(
        self,
        ref: WorkerRef | None = None,
        cursor: EventCursor | None = None,
        selection: Selection = EVERYTHING,
        *,
        principal: Principal = ADMIN,
    ) -> Iterator[Reader]:
        """Open a reader.

        Args:
            ref: The Worker to read, or None for all.
            cursor: Read events after this cursor, or None for events after the newest one.
            selection: Which events to read.
            principal: Who reads. It reads only events of Workers that it sees.

        Raises:
            WorkerNotFound: There is no such Worker, or the client may not know of it.
            WrongRuntimeCursor: The cursor belongs to another Runtime.
            CursorUnknownOrExpired: The cursor is older than what is retained, or newer than any event.
            UpstreamClosed: The feed is closed.
        """
        view = View(ref, Envelopes(), selection).narrowed(principal)
        with self._log(view, cursor, principal) as (log, sequence):
            yield Reader(log, sequence, view.selection)

    @asynccontextmanager
    async def observe(
        self,
        view: View,
        cursor: EventCursor | None,
        transport: asyncio.WriteTransport,
        drain: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[Exception], None],
        *,
        principal: Principal = ADMIN,
    ) -> AsyncIterator[Observer]:
        """Write a view to a transport until the context is left.

        An observer of one Worker is written a snapshot first.

        Args:
            view: What to write.
            cursor: Write events after this cursor, or None for events after the newest one.
            transport: Where to write.
            drain: Waits until the transport accepts more.
            ended: Called with the reason when the feed cannot continue, possibly more than once. The reason is
                Unavailable if this observer is dismissed because observers have left too much unread.
            principal: Who observes. It is written only events of Workers that it sees.

        Raises:
            WorkerNotFound: There is no such Worker, or the client may not know of it.
            WrongRuntimeCursor: The cursor belongs to another Runtime.
            CursorUnknownOrExpired: The cursor is older than what is retained, or newer than any event.
            UpstreamClosed: The feed is closed.
        """
        view = view.narrowed(principal)
        with self._log(view, cursor, principal) as (log, sequence):
            observer = Observer(log, sequence, view.selection, transport, drain, ended, self._unread)
            self._observers.add(observer)
            try:
                yield observer
            finally:
                self._observers.discard(observer)
                await observer.close()

    async def page(
        self,
        ref: WorkerRef | None,
        selection: Selection,
        cursor: EventCursor | None,
        limit: int | None,
        *,
        principal: Principal = ADMIN,
    ) -> Page:
        """Return at most one page of the store.

        Args:
            ref: The Worker to read, or None for all.
            selection: Which events to return.
            cursor: Return events after this cursor, or None to start at the oldest retained event.
            limit: The events to read, or None for the Runtime's limit.
            principal: Who reads. It reads only events of Workers that it sees.

        Raises:
            WorkerNotFound: There is no such Worker, or the client may not know of it.
            WrongRuntimeCursor: The cursor belongs to another Runtime.
            CursorUnknownOrExpired: The cursor is older than what is retained, or newer than any event.
            CursorExpired: Events after the cursor were trimmed during the call.
            LimitTooLarge: `limit` is above the Runtime's limit.
            StoreError: The store could not be read.
            UpstreamClosed: The feed is closed.
        """
        scope = self.check(ref, cursor, principal)
        shown = View(ref, Envelopes(), selection).narrowed(principal).selection
        items, newest = self.runtime.limits.max_event_batch_items if limit is None else limit, scope.newest
        page = await (_oldest(scope, items) if cursor is None else scope.page(cursor.sequence, items))
        return Page(selected(page.events, shown, self.runtime), page.upto, page.upto < newest)

    def check(self, ref: WorkerRef | None, cursor: EventCursor | None, principal: Principal = ADMIN) -> Scope:
        """Return the scope that a reader at this cursor would read.

        Raises:
            WorkerNotFound: There is no such Worker, or the client may not know of it.
            WrongRuntimeCursor: The cursor belongs to another Runtime.
            CursorUnknownOrExpired: The cursor is older than what is retained, or newer than any event.
            UpstreamClosed: The feed is closed.
        """
        if self._closed:
            raise UpstreamClosed
        if ref is not None:
            self.runtime.check_visible(ref, principal)
        scope = scope_of(self.runtime, ref, principal.tenant)
        retained_after = scope.retained_after
        if cursor is None:
            return scope
        if cursor.runtime_id != self.runtime.runtime_id:
            raise WrongRuntimeCursor(f"cursor: expected one of runtime {self.runtime.runtime_id}")
        if not retained_after <= cursor.sequence <= self.runtime.head or self.runtime.is_lost(cursor.sequence):
            raise CursorUnknownOrExpired
        return scope

    @contextmanager
    def _log(self, view: View, cursor: EventCursor | None, principal: Principal) -> Iterator[tuple[EventLog, int]]:
        """Hold the log that a view selects from, and return it with the sequence to read after."""
        scope = self.check(view.ref, cursor, principal)
        sequence = scope.newest if cursor is None else cursor.sequence
        whole, (shelf, key) = view.unfiltered, self._place(view)
        known = next((log for log in shelf.get(key, ()) if log.view == whole and log.ended is None), None)
        log = known or EventLog(self.runtime, whole, scope, self._ring_bytes, self._paging)
        logs = shelf.setdefault(key, [])
        if log is not known:
            logs.append(log)
        log.readers += 1
        try:
            yield log, sequence
        finally:
            log.readers -= 1
            if not log.readers:
                logs.remove(log)
                if not logs:
                    del shelf[key]

    def _place(self, view: View) -> tuple[dict[Any, list[EventLog]], WorkerId | str | None]:
        """Return where the logs of such views are kept, and the key there."""
        if view.tenant is not None:
            return self._tenant_logs, view.tenant
        return self._logs, None if view.ref is None else view.ref.worker_id

    def close(self) -> None:
        """End every reader with UpstreamClosed once it has read everything. Does nothing if the feed is closed."""
        if not self._closed:
            self._closed = True
            self.runtime.unsubscribe(self)
            held = (*self._logs.values(), *self._tenant_logs.values())
            for log in [log for logs in held for log in logs]:
                log.end(UpstreamClosed())


async def _oldest(scope: Scope, items: int) -> EventPage:
    """Return the oldest retained page. Reads again if trimming overtakes the read."""
    while True:
        try:
            return await scope.page(scope.retained_after, items)
        except CursorExpired:
            continue
