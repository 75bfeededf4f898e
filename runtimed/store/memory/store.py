"""The store that forgets with the process."""

import asyncio
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, NoReturn, TypeVar

import attrs

from runtimed.core.histogram import CommitHistograms
from runtimed.core.paging import PageSize
from runtimed.core.state.change import (
    Change,
    EncodedEvent,
    Entry,
    EventPage,
    Forgotten,
    StateAt,
    StoredState,
    TrimRange,
    Worker,
)
from runtimed.errors import BackupUnavailable, RuntimeStopped, SerializeFailed, StoreForeign
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.interaction import Attachment
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck, StoreKind
from runtimed.store import records
from runtimed.store.encoding import PURGE_ROWS, encode_events
from runtimed.store.memory.history import History
from runtimed.store.pages import ONE, attachments_in, entry_size, fill_page, new_runtime_id
from runtimed.store.records import STATES, WORKERS, StoredEvent, number_of
from runtimed.store.tables import Row, Table

D = TypeVar("D")

_OF_WORKERS = {
    records.META,
    records.WORKERS,
    records.STATES,
    records.EVENTS,
    records.TRIM_POINTS,
    records.ENTRIES,
    records.DELETED,
}
"""The tables whose content is kept in a form that is faster to read than rows."""


class MemoryStore:
    """Keep a Runtime in memory, for as long as this object exists.

    It accepts and refuses the same as the durable store. A commit is finished when the call returns. A closed store
    can be opened again and keeps its content.
    """

    backend: RuntimeBackend = "memory"
    kind: StoreKind = "memory"

    def __init__(self) -> None:
        self.commit_histograms = CommitHistograms()
        self._runtime_id: RuntimeId | None = None
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counters = dict.fromkeys(records.TABLES.counter_keys, 0)
        self._workers: dict[WorkerId, Worker] = {}
        self._history = History()
        self._entries: dict[WorkerId, list[Entry]] = defaultdict(list)
        self._rows: dict[str, dict[Any, Row]] = {table.name: {} for table in _tables_of_rows()}

    @property
    def event_bytes(self) -> int:
        return self._history.bytes

    @property
    def commit_cost_s(self) -> float:
        return 0.0

    @property
    def is_full(self) -> bool:
        return False

    @property
    def size_bytes(self) -> int:
        return 0

    @property
    def free_bytes(self) -> int | None:
        return None

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        if self._runtime_id is None:
            self._runtime_id = runtime_id or new_runtime_id()
        if runtime_id not in {None, self._runtime_id}:
            raise StoreForeign(self._runtime_id, str(runtime_id))
        self._open, self._loop = True, asyncio.get_running_loop()
        loaded: dict[str, Any] = {
            table.loaded_as: self._read(table) for table in _tables_of_rows() if table.loaded_as
        }
        loaded |= {field: self._counters[key] for key, field in records.TABLES.counter_fields.items()}
        workers = [self._workers[worker_id] for worker_id in sorted(self._workers)]
        return StoredState(
            runtime_id=self._runtime_id,
            workers=[attrs.evolve(w, retained_after=self._history.floor(w.worker_id).sequence) for w in workers],
            activities={
                worker.worker_id: self._history.state_at(worker.worker_id, worker.last_sequence).activity
                for worker in workers
                if not worker.quiet
            },
            deleted=sorted(self._history.hidden),
            **loaded,
        )

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        began = time.perf_counter()
        try:
            events, rows = encode_events(change.events), self._rows_of(change)
            self._check_text(change)
        except (TypeError, UnicodeEncodeError) as error:
            raise SerializeFailed from error
        future: asyncio.Future[Sequence[EncodedEvent]] = (self._loop or asyncio.get_running_loop()).create_future()
        if self._open:
            self._keep(change, events)
            self._keep_rows(rows)
            self._take_out(change)
            future.set_result(events)
            self.commit_histograms.observe(time.perf_counter() - began, 1)
        else:
            future.set_exception(RuntimeStopped())
        return future

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        entries = self._visible_entries(worker_id)
        first = bisect_right(entries, start, key=_entry_sequence)
        return fill_page(entries[first : first + page.items], page, entry_size)

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        entries = self._visible_entries(worker_id)
        end = bisect_right(entries, upto, key=_entry_sequence)
        newest = entries[max(0, end - page.items) : end]
        return fill_page(newest[::-1], page, entry_size)[::-1]

    async def read_attachments(self, worker_id: WorkerId, event: int) -> tuple[Attachment, ...]:
        return attachments_in(await self.read_records(records.ATTACHMENTS, event - 1, ONE), worker_id, event)

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        return self._reading().between(worker_id, after, upto, page)

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        return self._reading().all_between(after, upto, page)

    async def read_tenant_events(self, tenant: str, after: int, upto: int, page: PageSize) -> EventPage:
        return self._reading().some_between(set(self._of_tenant(tenant)), after, upto, page)

    async def oldest_events(
        self,
        worker_id: WorkerId | None,
        upto: int,
        count: int,
        spared: Collection[WorkerId] = (),
        tenant: str | None = None,
    ) -> Sequence[TrimRange]:
        history = self._reading()
        if worker_id is None and tenant is None:
            return history.oldest(upto, count, spared)
        workers = [worker_id] if worker_id is not None else self._of_tenant(tenant)
        return history.oldest_of([name for name in workers if name not in spared], upto, count)

    async def measure_events(self, worker_id: WorkerId, upto: int) -> int:
        return self._reading().measure(worker_id, upto)

    async def read_runtime_events(
        self, after: int, page: PageSize, tenant: str | None = None, workers: Collection[WorkerId] | None = None
    ) -> Sequence[RuntimeEvent]:
        self._reading()
        if tenant is None and workers is None:
            return self._read(records.RUNTIME_EVENTS, after, page.items)
        found = (
            event
            for event in self._read(records.RUNTIME_EVENTS, after)
            if (event.tenant == tenant if workers is None else event.worker_id in workers)
        )
        return list(islice(found, page.items))

    async def read_records(self, table: Table[Any, D], after: Any, page: PageSize) -> Sequence[D]:
        """Read a table by key.

        Args:
            table: One of `records.TABLES` that is kept as rows, such as RUNTIME_EVENTS.
            after: Rows with keys above this one are read.
            page: At most its `items` are read.

        Returns:
            The values of the rows, by key.
        """
        self._reading()
        return self._read(table, after, page.items)

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        return self._reading().state_at(worker_id, sequence)

    async def purge(self, worker_id: WorkerId) -> bool:
        history = self._reading()
        if worker_id not in history.hidden:
            return True
        entries = self._entries[worker_id]
        left = PURGE_ROWS - history.remove(worker_id, PURGE_ROWS)
        finished = len(entries) < left
        del entries[:left]
        if finished:
            del self._entries[worker_id]
            self._remove_rows(records.ATTACHMENTS, "worker", worker_id)
            history.hidden.remove(worker_id)
        return finished

    async def check(self) -> StoreCheck:
        events = len(self._reading())
        return StoreCheck(len(self._workers), sum(map(len, self._entries.values())), events, findings=())

    async def backup(self, *, with_folders: bool = False) -> NoReturn:
        raise BackupUnavailable

    async def close(self) -> None:
        self._open = False

    def _rows_of(self, change: Change) -> list[tuple[Table[Any, Any], list[Row]]]:
        return [(table, table.values(items)) for table, items in records.TABLES.parts(change)]

    def _check_text(self, change: Change) -> None:
        """Raise TypeError or UnicodeEncodeError for text that the durable store would refuse."""
        for entry in change.entries:
            entry.content.encode()
        worker = change.worker
        if worker is not None:
            known = self._workers.get(worker.worker_id)
            if known is None or known.request is not worker.request:
                WORKERS.encode(worker)
            if known is None or known.execution is not worker.execution or known.title != worker.title:
                STATES.encode(worker)

    def _keep(self, change: Change, events: Sequence[EncodedEvent]) -> None:
        worker = change.worker
        if worker is not None:
            if worker.worker_id not in self._workers:
                self._count("worker_number", number_of(worker.worker_id))
            self._workers[worker.worker_id] = worker
        for event, kept in zip(change.events, events, strict=True):
            self._history.add(StoredEvent(kept, event.previous, event.since, event.transcript_len, event.activity))
        if change.events:
            self._count("head", max([event.sequence for event in change.events]))
        for entry in change.entries:
            self._entries[entry.worker_id].append(entry)

    def _keep_rows(self, rows: Sequence[tuple[Table[Any, Any], list[Row]]]) -> None:
        for table, added in rows:
            if table.counter is not None:
                self._count(table.counter.key, max([row[table.counter_at] for row in added]))
            if table not in _OF_WORKERS:
                kept = self._rows[table.name]
                for row in added:
                    kept[row[0]] = row

    def _count(self, key: str, number: int) -> None:
        if number > self._counters[key]:
            self._counters[key] = number

    def _take_out(self, change: Change) -> None:
        if change.trim:
            self._history.trim(change.trim)
        if change.deleted:
            self._delete(change.deleted)
        if change.revoked:
            self._rows[records.TOKENS.name].pop(change.revoked, None)
        if change.forgotten:
            self._forget(change.forgotten)

    def _forget(self, gone: Forgotten) -> None:
        for table in _tables_of_rows():
            limit = table.expiry.limit(gone) if table.expiry else None
            if table.expiry is None or limit is None:
                continue
            rows = self._rows[table.name]
            keys = sorted(rows)
            for key in keys[: -limit or None] if table.expiry.keeps_newest else keys[: bisect_right(keys, limit)]:
                del rows[key]

    def _delete(self, worker_id: WorkerId) -> None:
        self._workers.pop(worker_id, None)
        self._history.hide(worker_id)
        for table in _tables_of_rows():
            if table.owner is not None:
                self._remove_rows(table, table.owner, worker_id)

    def _remove_rows(self, table: Table[Any, Any], owner: str, worker_id: WorkerId) -> None:
        number, place, rows = number_of(worker_id), table.place_of(owner), self._rows[table.name]
        for key in [key for key, row in rows.items() if row[place] == number]:
            del rows[key]

    def _read(self, table: Table[Any, D], after: Any = None, count: int | None = None) -> list[D]:
        """Return the values of the rows with keys above `after`, by key."""
        rows = self._rows[table.name]
        keys = sorted(key for key in rows if after is None or key > after)
        return [table.decode(*rows[key]) for key in islice(keys, count)]

    def _of_tenant(self, tenant: str | None) -> list[WorkerId]:
        return [worker.worker_id for worker in self._workers.values() if worker.tenant == tenant]

    def _reading(self) -> History:
        if not self._open:
            raise RuntimeStopped
        return self._history

    def _visible_entries(self, worker_id: WorkerId) -> list[Entry]:
        hidden = worker_id in self._reading().hidden
        return [] if hidden else self._entries.get(worker_id, [])


def _entry_sequence(entry: Entry) -> int:
    return entry.sequence


def _tables_of_rows() -> list[Table[Any, Any]]:
    return [table for table in records.TABLES if table not in _OF_WORKERS]
