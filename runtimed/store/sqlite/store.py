"""The durable store: a Runtime in a folder, kept by SQLite."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import attrs

from runtimed.core.clock import SteadyClock
from runtimed.core.histogram import CommitHistograms
from runtimed.core.paging import PageSize
from runtimed.core.ports import Clock
from runtimed.core.state.change import Change, EncodedEvent, Entry, EventPage, StateAt, StoredState, TrimRange
from runtimed.errors import RuntimeStopped, StoreCorrupt, Unavailable
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.interaction import Attachment
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck, StoreKind
from runtimed.store import records
from runtimed.store.data_dir import DATABASE, DataDir
from runtimed.store.encoding import EncodedChange, encode_change
from runtimed.store.pages import ONE, attachments_in
from runtimed.store.records import number_of
from runtimed.store.sqlite import queries
from runtimed.store.sqlite.ballast import Ballast
from runtimed.store.sqlite.check import MAX_PIN_S, Check
from runtimed.store.sqlite.connection import connect, enable_wal, translate_errors
from runtimed.store.sqlite.loading import load
from runtimed.store.sqlite.online_backup import OnlineBackup, copy_of
from runtimed.store.sqlite.readers import Readers
from runtimed.store.sqlite.schema import check_version, create_or_migrate, note_program
from runtimed.store.sqlite.sync import Sync, apply_sync
from runtimed.store.sqlite.wal_recovery import find_hit_workers, kept_log, rebuild_indexes, repair_log
from runtimed.store.sqlite.writer import Writer
from runtimed.store.tables import Table

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")


class SqliteStore:
    """Keep a Runtime in a folder. What was committed survives a power cut, unless `sync` is `normal`.

    A store can be opened once. After close(), commits and reads raise RuntimeStopped.

    Args:
        path: The folder. It must be on a local disk.
        sync: `full` syncs a commit before it is acknowledged; with `normal` a power cut loses the newest commits.
        clock: The time of rows from earlier versions, which stored none, if no mark gives a better one.
        create: Whether a store that does not exist is created.

    Attributes:
        data_dir: The folder, with the token and the Workers' folders. It is locked from open() to close().
    """

    backend: RuntimeBackend = "fs_store"
    kind: StoreKind = "fs"

    def __init__(self, path: Path, sync: Sync = "full", clock: Clock | None = None, *, create: bool = True) -> None:
        self.data_dir = DataDir(path, create=create)
        self.commit_histograms = CommitHistograms()
        self._sync = sync
        self._clock = clock or SteadyClock()
        self._parts = contextlib.ExitStack()
        self._opening_or_closing = threading.Lock()
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._backup: OnlineBackup | None = None

    @property
    def event_bytes(self) -> int:
        return self._writer.event_bytes if self._writer else 0

    @property
    def commit_cost_s(self) -> float:
        return self._writer.commit_cost_s if self._writer else 0.0

    @property
    def is_full(self) -> bool:
        return self._writer is not None and self._writer.is_full

    @property
    def size_bytes(self) -> int:
        return self._writer.size_bytes if self._writer else 0

    @property
    def free_bytes(self) -> int | None:
        return self._writer.free_bytes if self._writer else None

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        return await asyncio.to_thread(self._open, runtime_id, asyncio.get_running_loop())

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        encoded = encode_change(change, self._writer.requests if self._writer else {})
        if self._writer is not None:
            return self._writer.submit(encoded)
        stopped: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        stopped.set_exception(RuntimeStopped())
        return stopped

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        return await self._read(queries.entries_after, worker_id, start, page)

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        return await self._read(queries.newest_entries, worker_id, upto, page)

    async def read_attachments(self, worker_id: WorkerId, event: int) -> tuple[Attachment, ...]:
        return attachments_in(await self.read_records(records.ATTACHMENTS, event - 1, ONE), worker_id, event)

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        return await self._read(queries.events_between, worker_id, after, upto, page)

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        return await self._reading().run(queries.all_events_between, after, upto, page)

    async def read_tenant_events(self, tenant: str, after: int, upto: int, page: PageSize) -> EventPage:
        return await self._reading().run(queries.tenant_events_between, tenant, after, upto, page)

    async def oldest_events(
        self,
        worker_id: WorkerId | None,
        upto: int,
        count: int,
        spared: Collection[WorkerId] = (),
        tenant: str | None = None,
    ) -> Sequence[TrimRange]:
        if worker_id is not None:
            return await self._reading().run(queries.oldest_events_of_worker, worker_id, upto, count)
        if tenant is not None:
            return await self._reading().run(queries.oldest_events_of_tenant, tenant, upto, count, spared)
        return await self._reading().run(queries.oldest_events, upto, count, spared)

    async def measure_events(self, worker_id: WorkerId, upto: int) -> int:
        return await self._read(queries.measure_events, worker_id, upto)

    async def read_runtime_events(
        self, after: int, page: PageSize, tenant: str | None = None, workers: Collection[WorkerId] | None = None
    ) -> Sequence[RuntimeEvent]:
        return await self._reading().run(queries.runtime_events_after, after, page, tenant, workers)

    async def read_records(self, table: Table[Any, D], after: Any, page: PageSize) -> Sequence[D]:
        """Read a table by key.

        Args:
            table: One of `records.TABLES`.
            after: Rows with keys above this one are read.
            page: At most its `items` are read.

        Returns:
            The values of the rows, by key. Damaged rows are logged and left out.
        """
        return await self._reading().run(queries.records_after, table, after, page)

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        return await self._read(queries.state_at, worker_id, sequence)

    async def purge(self, worker_id: WorkerId) -> bool:
        if self._writer is None:
            raise RuntimeStopped
        await self._writer.submit(EncodedChange(purged=number_of(worker_id), vital=True))
        return await self._reading().run(queries.is_purged, worker_id)

    async def check(self) -> StoreCheck:
        check = Check(MAX_PIN_S)
        for step in chain(check.structure(), check.rows()):
            await self._reading().run(step)
        await asyncio.to_thread(self._check_folder, check)
        return check.result()

    async def backup(self, *, with_folders: bool = False) -> OnlineBackup:
        writer = self._writer
        if writer is None:
            raise RuntimeStopped
        if self._backup is not None:
            raise Unavailable("another backup is being made; try again once it is finished")
        self._backup = backup = OnlineBackup(
            self.data_dir.path / DATABASE,
            with_folders=with_folders,
            pin=writer.pin_log,
            is_full=lambda: writer.is_full,
            ended=self._forget_backup,
        )
        await backup.make()
        return backup

    async def close(self) -> None:
        if self._backup is not None:
            await self._backup.close()
        self._writer = self._readers = None
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._close)))

    async def _read(
        self,
        read: Callable[Concatenate[apsw.Connection, WorkerId, P], T],
        worker_id: WorkerId,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a read for one Worker, and name the Worker in errors about damage that SQLite itself finds."""
        try:
            return await self._reading().run(read, worker_id, *args, **kwargs)
        except StoreCorrupt as error:
            if worker_id in str(error):
                raise
            raise StoreCorrupt(f"{worker_id}: {error}") from error

    def _check_folder(self, check: Check) -> None:
        with translate_errors():
            for problem in self.data_dir.problems():
                check.found(problem)

    def _forget_backup(self) -> None:
        self._backup = None

    def _reading(self) -> Readers:
        if self._readers is None:
            raise RuntimeStopped
        return self._readers

    def _open(self, runtime_id: RuntimeId | None, loop: asyncio.AbstractEventLoop) -> StoredState:
        with self._opening_or_closing, contextlib.ExitStack() as parts, translate_errors():
            database = parts.enter_context(self.data_dir)
            copy_of(database).unlink(missing_ok=True)
            ballast = Ballast(database.parent)
            ballast.prepare()
            repair_log(database)
            connection = parts.enter_context(contextlib.closing(connect(database)))
            check_version(connection)
            enable_wal(connection)
            create_or_migrate(connection, self._clock.unix_ms())
            if suspect := kept_log(database).exists():
                rebuild_indexes(connection)
            state, numbers = load(connection, runtime_id)
            if suspect:
                state = attrs.evolve(state, damaged={**find_hit_workers(database, connection), **state.damaged})
            apply_sync(connection, self._sync)
            note_program(connection)
            requests = {number_of(worker.worker_id): worker.request for worker in state.workers}
            writer = Writer(connection, loop, numbers, requests, ballast, self.commit_histograms)
            self._writer = parts.enter_context(contextlib.closing(writer))
            self._readers = parts.enter_context(contextlib.closing(Readers(database)))
            self._parts = parts.pop_all()
            return state

    def _close(self) -> None:
        with self._opening_or_closing, translate_errors():
            self._writer = self._readers = None  # an open() that was given up may have set them meanwhile
            self._parts.close()
