"""The store that forgets with the process."""

import asyncio
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from runtimed.core.activity import Activity
from runtimed.core.change import Change, EncodedEvent, Entry, Moment, Remark, Span, StoredState, Worker
from runtimed.core.paging import PageSize
from runtimed.errors import RuntimeStopped, StoreForeign
from runtimed.model.bundle import ConfigBundle
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck
from runtimed.store.replay import cut, entry_size, new_runtime_id, replay, stored_size
from runtimed.store.rows import Rows, StoredEvent, encode_change

T = TypeVar("T")


class MemoryStore:
    """Holds a Runtime for as long as it is held itself, closed or not.

    It takes what the durable store takes and refuses what that refuses. A commit is done when it returns.
    """

    event_bytes = 0
    backend: RuntimeBackend = "memory"

    def __init__(self) -> None:
        self._runtime_id: RuntimeId | None = None
        self._open = False
        self._head = 0
        self._worker_number = 0
        self._workers: dict[WorkerId, Worker] = {}
        self._events: dict[WorkerId, list[StoredEvent]] = defaultdict(list)
        self._entries: dict[WorkerId, list[Entry]] = defaultdict(list)
        self._bundles: dict[str, ConfigBundle] = {}
        self._remarks: list[Remark] = []

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        """As Store.open."""
        if self._runtime_id is None:
            self._runtime_id = runtime_id or new_runtime_id()
        if runtime_id not in {None, self._runtime_id}:
            raise StoreForeign(self._runtime_id, str(runtime_id))
        self._open = True
        workers = [self._workers[worker_id] for worker_id in sorted(self._workers)]
        return StoredState(
            runtime_id=self._runtime_id,
            head=self._head,
            worker_number=self._worker_number,
            workers=workers,
            activities={
                worker.worker_id: self._moment(worker.worker_id, worker.last_sequence).activity
                for worker in workers
                if not worker.quiet
            },
            bundles=[self._bundles[key] for key in sorted(self._bundles)],
            remarks=tuple(self._remarks),
        )

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """As Store.commit. Raises SerializeFailed for text that is not Unicode; the future, RuntimeStopped."""
        rows = encode_change(change)
        future: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        if self._open:
            self._keep(change, rows)
            future.set_result(rows.events)
        else:
            future.set_exception(RuntimeStopped())
        return future

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        """As Store.read_entries."""
        entries = self._reading(self._entries, worker_id)
        first = bisect_right(entries, start, key=_entry_sequence)
        return cut(entries[first : first + page.items], page, entry_size)

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        """As Store.newest_entries."""
        entries = self._reading(self._entries, worker_id)
        end = bisect_right(entries, upto, key=_entry_sequence)
        newest = entries[max(0, end - page.items) : end]
        return cut(newest[::-1], page, entry_size)[::-1]

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """As Store.read_events."""
        events = self._reading(self._events, worker_id)
        first = bisect_right(events, after, key=_event_sequence)
        end = bisect_right(events, upto, key=_event_sequence)
        found = cut(events[first : min(end, first + page.items)], page, stored_size)
        return [stored.event for stored in found]

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """As Store.read_all_events."""
        return ()

    async def oldest_events(self, worker_id: WorkerId | None, upto: int, count: int) -> Sequence[Span]:
        """As Store.oldest_events."""
        return ()

    async def read_runtime_events(self, after: int, page: PageSize) -> Sequence[RuntimeEvent]:
        """As Store.read_runtime_events."""
        return ()

    async def purge(self, worker_id: WorkerId) -> bool:
        """As Store.purge."""
        return True

    async def check(self) -> StoreCheck:
        """As Store.check."""
        return StoreCheck(0, 0, 0, ())

    async def moment(self, worker_id: WorkerId, sequence: int) -> Moment:
        """As Store.moment."""
        self._reading(self._events, worker_id)
        return self._moment(worker_id, sequence)

    async def close(self) -> None:
        """As Store.close."""
        self._open = False

    def _keep(self, change: Change, rows: Rows) -> None:
        self._head = max(self._head, rows.head)
        self._worker_number = max(self._worker_number, rows.worker_number)
        if change.worker:
            self._workers[change.worker.worker_id] = change.worker
        for event, encoded in zip(change.events, rows.events, strict=True):
            self._events[event.worker_id].append(
                StoredEvent(encoded, event.since, event.transcript_len, event.activity)
            )
        for entry in change.entries:
            self._entries[entry.worker_id].append(entry)
        if change.bundle:
            self._bundles[change.bundle.metadata.id] = change.bundle
        self._remarks.extend(change.remarks)

    def _reading(self, kept: dict[WorkerId, list[T]], worker_id: WorkerId) -> list[T]:
        if not self._open:
            raise RuntimeStopped
        return kept.get(worker_id, [])

    def _moment(self, worker_id: WorkerId, sequence: int) -> Moment:
        events = self._events.get(worker_id, [])
        end = bisect_right(events, sequence, key=_event_sequence)
        if not end:
            return Moment(0, Activity())
        stood = events[end - 1]
        first = bisect_left(events, stood.since, key=_event_sequence) if stood.since else end
        activity = replay(Activity(), (stored.event for stored in events[first:end]))
        return Moment(stood.transcript_len, Activity(stood.activity, activity.blocks))


def _entry_sequence(entry: Entry) -> int:
    return entry.sequence


def _event_sequence(stored: StoredEvent) -> int:
    return stored.event.sequence
