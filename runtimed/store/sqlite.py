"""The durable store: a Runtime in a folder, kept by SQLite."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw
import attrs

from runtimed.core.clock import SteadyClock
from runtimed.core.paging import PageSize
from runtimed.core.ports import Clock
from runtimed.core.state.change import Change, EncodedEvent, Entry, StateAt, StoredState, TrimRange
from runtimed.errors import RuntimeStopped, StoreCorrupt
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck, StoreKind
from runtimed.store import queries
from runtimed.store.ballast import Ballast
from runtimed.store.catalog import load
from runtimed.store.check import MAX_PIN_S, Check
from runtimed.store.connection import connect, translated, use_log
from runtimed.store.encoding import Rows, encode_change
from runtimed.store.folder import StoreFolder
from runtimed.store.readers import Readers
from runtimed.store.rows import number_of
from runtimed.store.salvage import hit_by_damage, kept_log, mend_indexes, mend_log
from runtimed.store.schema import check_version, prepare
from runtimed.store.sync import Sync, use_sync
from runtimed.store.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore:
    """The Store `fs:PATH`; what it says is stored survives a power cut, unless `sync` is `normal`.

    One that is not there is made, unless `create` is false. It is opened once. After close() it is done with: commits
    and reads raise RuntimeStopped. `folder` holds what else belongs to the Runtime, its token and the folders of its
    Workers; it is this store's from open() to close(). `clock` tells the time that rows of a version without times
    get, where nothing tells a better one.
    """

    backend: RuntimeBackend = "fs_store"
    kind: StoreKind = "fs"

    def __init__(self, path: Path, sync: Sync = "full", clock: Clock | None = None, *, create: bool = True) -> None:
        self.folder = StoreFolder(path, create=create)
        self._sync = sync
        self._clock = clock or SteadyClock()
        self._parts = contextlib.ExitStack()
        self._opening_or_closing = threading.Lock()
        self._writer: Writer | None = None
        self._readers: Readers | None = None

    @property
    def event_bytes(self) -> int:
        """As Store.event_bytes; 0 while the store is not open."""
        return self._writer.event_bytes if self._writer else 0

    @property
    def commit_cost_s(self) -> float:
        """As Store.commit_cost_s; 0 while the store is not open."""
        return self._writer.commit_cost_s if self._writer else 0.0

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        """As Store.open."""
        return await asyncio.to_thread(self._open, runtime_id, asyncio.get_running_loop())

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """As Store.commit. Raises SerializeFailed for text that is not Unicode; the future, RuntimeStopped."""
        rows = encode_change(change, self._writer.requests if self._writer else {})
        if self._writer is not None:
            return self._writer.submit(rows)
        stopped: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        stopped.set_exception(RuntimeStopped())
        return stopped

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        """As Store.read_entries."""
        return await self._read(queries.entries_after, worker_id, start, page)

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        """As Store.newest_entries."""
        return await self._read(queries.newest_entries, worker_id, upto, page)

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """As Store.read_events."""
        return await self._read(queries.events_between, worker_id, after, upto, page)

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """As Store.read_all_events."""
        return await self._reading().run(queries.all_events_between, after, upto, page)

    async def oldest_events(
        self, worker_id: WorkerId | None, upto: int, count: int, spared: Collection[WorkerId] = ()
    ) -> Sequence[TrimRange]:
        """As Store.oldest_events."""
        return await self._reading().run(queries.oldest_events, worker_id, upto, count, spared)

    async def read_runtime_events(self, after: int, page: PageSize) -> Sequence[RuntimeEvent]:
        """As Store.read_runtime_events."""
        return await self._reading().run(queries.runtime_events_after, after, page)

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        """As Store.moment."""
        return await self._read(queries.state_at, worker_id, sequence)

    async def purge(self, worker_id: WorkerId) -> bool:
        """As Store.purge. What is not deleted is not touched."""
        if self._writer is None:
            raise RuntimeStopped
        await self._writer.submit(Rows(purged=number_of(worker_id), vital=True))
        return await self._reading().run(queries.is_purged, worker_id)

    async def check(self) -> StoreCheck:
        """As Store.check; between any two steps other readers have their turn."""
        check = Check(MAX_PIN_S)
        for step in chain(check.structure(), check.rows()):
            await self._reading().run(step)
        await asyncio.to_thread(self._check_folder, check)
        return check.result()

    async def close(self) -> None:
        """As Store.close."""
        self._writer = self._readers = None
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._close)))

    async def _read(
        self,
        read: Callable[Concatenate[apsw.Connection, WorkerId, P], T],
        worker_id: WorkerId,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Read something of one Worker, who is named where SQLite itself finds damage: it knows of no Workers."""
        try:
            return await self._reading().run(read, worker_id, *args, **kwargs)
        except StoreCorrupt as error:
            if worker_id in str(error):
                raise
            raise StoreCorrupt(f"{worker_id}: {error}") from error

    def _check_folder(self, check: Check) -> None:
        with translated():
            for problem in self.folder.problems():
                check.found(problem)

    def _reading(self) -> Readers:
        if self._readers is None:
            raise RuntimeStopped
        return self._readers

    def _open(self, runtime_id: RuntimeId | None, loop: asyncio.AbstractEventLoop) -> StoredState:
        with self._opening_or_closing, contextlib.ExitStack() as parts, translated():
            database = parts.enter_context(self.folder)
            ballast = Ballast(database.parent)
            ballast.prepare()
            mend_log(database)
            connection = parts.enter_context(contextlib.closing(connect(database)))
            check_version(connection)
            use_log(connection)
            prepare(connection, self._clock.unix_ms())
            if suspect := kept_log(database).exists():
                mend_indexes(connection)
            state, numbers = load(connection, runtime_id)
            if suspect:
                state = attrs.evolve(state, damaged={**hit_by_damage(database, connection), **state.damaged})
            use_sync(connection, self._sync)
            requests = {number_of(worker.worker_id): worker.request for worker in state.workers}
            writer = Writer(connection, loop, numbers, requests, ballast)
            self._writer = parts.enter_context(contextlib.closing(writer))
            self._readers = parts.enter_context(contextlib.closing(Readers(database)))
            self._parts = parts.pop_all()
            return state

    def _close(self) -> None:
        with self._opening_or_closing, translated():
            self._writer = self._readers = None  # an open() that was given up may have set them meanwhile
            self._parts.close()
