"""The store that forgets with the process."""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TypeVar

import attrs

from runtimed.core.paging import PageSize
from runtimed.core.state.change import (
    Change,
    EncodedEvent,
    Entry,
    Forgotten,
    Mark,
    NumberedDiagnostic,
    StateAt,
    StoredState,
    TrimRange,
    Worker,
)
from runtimed.errors import RuntimeStopped, StoreForeign
from runtimed.model.bundle import ConfigBundle
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck, StoreKind
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.encoding import HIGH_NUMBERS, PURGE_ROWS, encode_events
from runtimed.store.history import History
from runtimed.store.replay import cut, entry_size, new_runtime_id
from runtimed.store.rows import StoredEvent, number_of

T = TypeVar("T")


class MemoryStore:
    """Holds a Runtime for as long as it is held itself, closed or not.

    It takes what the durable store takes and refuses what that refuses. A commit is done when it returns.
    """

    backend: RuntimeBackend = "memory"
    kind: StoreKind = "memory"

    def __init__(self) -> None:
        self._runtime_id: RuntimeId | None = None
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers = dict.fromkeys(HIGH_NUMBERS, 0)
        self._requests: dict[int, CreateWorkerRequest] = {}
        self._workers: dict[WorkerId, Worker] = {}
        self._history = History()
        self._entries: dict[WorkerId, list[Entry]] = defaultdict(list)
        self._bundles: dict[str, ConfigBundle] = {}
        self._remarks: dict[int, NumberedDiagnostic] = {}
        self._runtime_events: dict[int, RuntimeEvent] = {}
        self._marks: dict[int, Mark] = {}

    @property
    def event_bytes(self) -> int:
        """As Store.event_bytes."""
        return self._history.bytes

    @property
    def commit_cost_s(self) -> float:
        """As Store.commit_cost_s: all is done on the event loop."""
        return 0.0

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        """As Store.open."""
        if self._runtime_id is None:
            self._runtime_id = runtime_id or new_runtime_id()
        if runtime_id not in {None, self._runtime_id}:
            raise StoreForeign(self._runtime_id, str(runtime_id))
        self._open, self._loop = True, asyncio.get_running_loop()
        workers = [self._workers[worker_id] for worker_id in sorted(self._workers)]
        return StoredState(
            runtime_id=self._runtime_id,
            workers=[attrs.evolve(w, retained_after=self._history.floor(w.worker_id).sequence) for w in workers],
            activities={
                worker.worker_id: self._history.state_at(worker.worker_id, worker.last_sequence).activity
                for worker in workers
                if not worker.quiet
            },
            bundles=[self._bundles[key] for key in sorted(self._bundles)],
            diagnostics=tuple(self._remarks.values()),
            marks=[self._marks[sequence] for sequence in sorted(self._marks)],
            deleted=sorted(self._history.hidden),
            head=self._numbers["head"],
            worker_number=self._numbers["worker_number"],
            diagnostic_number=self._numbers["remark_number"],
            runtime_event_id=self._numbers["runtime_event_id"],
        )

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """As Store.commit. Raises SerializeFailed for text that is not Unicode; the future, RuntimeStopped."""
        events = encode_events(change, self._requests)
        future: asyncio.Future[Sequence[EncodedEvent]] = (self._loop or asyncio.get_running_loop()).create_future()
        if self._open:
            self._keep(change, events)
            future.set_result(events)
        else:
            future.set_exception(RuntimeStopped())
        return future

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        """As Store.read_entries."""
        entries = self._visible_entries(worker_id)
        first = bisect_right(entries, start, key=_entry_sequence)
        return cut(entries[first : first + page.items], page, entry_size)

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        """As Store.newest_entries."""
        entries = self._visible_entries(worker_id)
        end = bisect_right(entries, upto, key=_entry_sequence)
        newest = entries[max(0, end - page.items) : end]
        return cut(newest[::-1], page, entry_size)[::-1]

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """As Store.read_events."""
        return self._reading().between(worker_id, after, upto, page)

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """As Store.read_all_events."""
        return self._reading().all_between(after, upto, page)

    async def oldest_events(
        self, worker_id: WorkerId | None, upto: int, count: int, spared: Collection[WorkerId] = ()
    ) -> Sequence[TrimRange]:
        """As Store.oldest_events."""
        return self._reading().oldest(worker_id, upto, count, spared)

    async def read_runtime_events(self, after: int, page: PageSize) -> Sequence[RuntimeEvent]:
        """As Store.read_runtime_events."""
        self._reading()
        found = [self._runtime_events[number] for number in sorted(self._runtime_events) if number > after]
        return found[: page.items]

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        """As Store.moment."""
        return self._reading().state_at(worker_id, sequence)

    async def purge(self, worker_id: WorkerId) -> bool:
        """As Store.purge. What is not deleted is not touched."""
        history = self._reading()
        if worker_id not in history.hidden:
            return True
        entries = self._entries[worker_id]
        left = PURGE_ROWS - history.remove(worker_id, PURGE_ROWS)
        finished = len(entries) < left
        del entries[:left]
        if finished:
            del self._entries[worker_id]
            history.hidden.remove(worker_id)
        return finished

    async def check(self) -> StoreCheck:
        """As Store.check: there is nothing here that could be damaged."""
        events = len(self._reading())
        return StoreCheck(len(self._workers), sum(map(len, self._entries.values())), events, findings=())

    async def close(self) -> None:
        """As Store.close."""
        self._open = False

    def _keep(self, change: Change, events: Sequence[EncodedEvent]) -> None:
        if change.worker:
            self._keep_worker(change.worker)
        for event, encoded in zip(change.events, events, strict=True):
            self._history.add(StoredEvent(encoded, event.previous, event.since, event.transcript_len, event.activity))
            self._raise("head", event.sequence)
        for entry in change.entries:
            self._entries[entry.worker_id].append(entry)
        if change.bundle:
            self._bundles[change.bundle.metadata.id] = change.bundle
        for remark in change.diagnostics:
            self._remarks[remark.number] = remark
            self._raise("remark_number", remark.number)
        for told in change.runtime_events:
            self._runtime_events[told.id] = told
            self._raise("runtime_event_id", told.id)
        if change.mark:
            self._marks[change.mark.sequence] = change.mark
        self._take_out(change)

    def _keep_worker(self, worker: Worker) -> None:
        number = number_of(worker.worker_id)
        self._workers[worker.worker_id] = worker
        self._requests[number] = worker.request
        self._raise("worker_number", number)

    def _raise(self, key: str, number: int) -> None:
        if number > self._numbers[key]:
            self._numbers[key] = number

    def _take_out(self, change: Change) -> None:
        if change.trim:
            self._history.trim(change.trim)
        if change.deleted:
            self._delete(change.deleted)
        if change.forgotten:
            self._forget(change.forgotten)

    def _forget(self, gone: Forgotten) -> None:
        _drop(self._remarks, gone.diagnostics)
        if (left := gone.runtime_events_left) is not None:
            for number in sorted(self._runtime_events)[: -left or None]:
                del self._runtime_events[number]
        _drop(self._marks, gone.marks)

    def _delete(self, worker_id: WorkerId) -> None:
        self._workers.pop(worker_id, None)
        self._requests.pop(number_of(worker_id), None)
        self._remarks = {n: r for n, r in self._remarks.items() if r.diagnostic.worker_id != worker_id}
        self._history.hide(worker_id)

    def _reading(self) -> History:
        if not self._open:
            raise RuntimeStopped
        return self._history

    def _visible_entries(self, worker_id: WorkerId) -> list[Entry]:
        hidden = worker_id in self._reading().hidden
        return [] if hidden else self._entries.get(worker_id, [])


def _entry_sequence(entry: Entry) -> int:
    return entry.sequence


def _drop(kept: dict[int, T], upto: int) -> None:
    for number in [number for number in kept if number <= upto]:
        del kept[number]
