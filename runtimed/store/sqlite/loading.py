"""Loading of a durable store: everything but transcripts and events."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import apsw

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import QueuedInput, StoredState, Worker
from runtimed.errors import StoreCorrupt, StoreForeign
from runtimed.model.bundle import Declaration
from runtimed.model.execution import Execution
from runtimed.model.identity import RuntimeId, WorkerId, worker_id
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store import records
from runtimed.store.pages import new_runtime_id
from runtimed.store.records import (
    ACTIVITIES,
    AWAITS_RUN_END,
    EXECUTION_FIELDS,
    META,
    REQUEST_FIELDS,
    STATES,
    STATUSES,
    TRIM_POINTS,
    WORKERS,
    DeclaredRequest,
    TitledExecution,
    number_of,
    skip_damaged,
)
from runtimed.store.sqlite.queries import state_at
from runtimed.store.sqlite.row_counts import NO_ROWS, count_all_rows, find_fault, find_missing_workers
from runtimed.store.tables import Row, Table
from runtimed.wire.converter import restore

_COLUMNS = ", ".join((*(f"worker.{name}" for name in WORKERS.names), *(f"state.{name}" for name in STATES.names[1:])))
WORKERS_WITH_STATES = f"SELECT {_COLUMNS} FROM worker LEFT JOIN state ON state.worker = number"  # noqa: S608

_HIDDEN = "SELECT worker FROM deleted WHERE worker IN (SELECT number FROM worker)"

EVENT_BYTES = "event_bytes"
"""The key in `meta` of the size of the payloads of all events."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def load(connection: apsw.Connection, runtime_id: RuntimeId | None) -> tuple[StoredState, dict[str, int]]:
    """Load the state of the Runtime in a store.

    Damage to a Worker's rows damages that Worker alone. A damaged row of an essential table is an error, any other
    one is logged and left out. Events are not checked: if damage hides what a Worker was doing, the Worker counts
    as running.

    Args:
        connection: A connection that writes.
        runtime_id: The expected id, which a new store gets. None accepts any id and generates one for a new store.

    Returns:
        The state, and the numbers in `meta`: the counters and the size of all events in bytes.

    Raises:
        StoreForeign: The store belongs to another Runtime.
        StoreCorrupt: A row of `meta` is damaged or missing, or one of an essential table is damaged.
    """
    meta = _meta(connection, runtime_id)
    stored = RuntimeId(meta["runtime_id"])
    if runtime_id not in {None, stored}:
        raise StoreForeign(stored, str(runtime_id))
    loaded = {table.loaded_as: _load_table(connection, table) for table in records.TABLES if table.loaded_as}
    deleted = loaded["deleted"]
    workers, damaged = _workers(connection, set(deleted))
    numbers = _numbers(connection, meta, workers, (*deleted, *damaged))
    fields: dict[str, Any] = {
        **loaded,
        **{field: numbers[key] for key, field in records.TABLES.counter_fields.items()},
    }
    state = StoredState(
        runtime_id=stored,
        workers=workers,
        activities={w.worker_id: _activity(connection, w) for w in workers if not w.quiet},
        damaged=damaged,
        **fields,
    )
    return state, numbers


def worker_reader() -> Callable[[Row, int], Worker]:
    """Make a function that reads Workers and shares equal requests and executions among them.

    Returns:
        A function of two arguments: a row of WORKERS followed by one of STATES without its key, and the sequence
        after which events are retained. It raises StoreCorrupt for a damaged row.
    """
    request_of = functools.cache(_restored_request)
    execution_of = functools.cache(_restored_execution)

    def read(row: Row, floor: int) -> Worker:
        name, end = WORKERS.describe(row), len(WORKERS.columns)
        number, request, created_at_ms, tenant = WORKERS.read(row[:end])
        state = STATES.read((number, *row[end:]))
        _, status, transcript_len, last_sequence, since, activity, retained, body, waiting, last_event_ms = state
        (asked, declarations), (execution, title) = request_of(request), execution_of(body)
        return Worker(
            worker_id(number),
            asked,
            STATUSES[status],
            execution,
            transcript_len,
            last_sequence,
            since,
            "idle" if activity == AWAITS_RUN_END else ACTIVITIES[activity],
            floor,
            retained,
            _restored(waiting, tuple[QueuedInput, ...], name) if waiting else (),
            created_at_ms,
            last_event_ms,
            activity == AWAITS_RUN_END,
            title,
            declarations=declarations,
            tenant=tenant or None,
        )

    return read


def _load_table(connection: apsw.Connection, table: Table[Any, T]) -> list[T]:
    rows = connection.execute(f"{table.select} ORDER BY {table.key}")
    return list(map(table.read, rows) if table.is_essential else skip_damaged(table, rows))


def _meta(connection: apsw.Connection, runtime_id: RuntimeId | None) -> Mapping[str, str]:
    numbers = (*records.TABLES.counter_keys, EVENT_BYTES)
    meta = dict(map(META.read, connection.execute(META.select)))
    if not meta:
        meta = {"runtime_id": runtime_id or new_runtime_id(), **dict.fromkeys(numbers, "0")}
        with connection:
            connection.executemany(META.insert, map(META.row, meta.items()))
    if not meta.keys() >= {"runtime_id", *numbers}:
        raise StoreCorrupt("a meta row of the store is missing")
    return meta


def _numbers(
    connection: apsw.Connection, meta: Mapping[str, str], workers: Iterable[Worker], others: Iterable[WorkerId]
) -> dict[str, int]:
    """Return the numbers in `meta`, raised to the highest that any table holds."""
    numbers = {key: int(meta[key]) for key in (*records.TABLES.counter_keys, EVENT_BYTES)}
    for table in records.TABLES:
        if table.counter is not None:
            key, column = table.counter.key, table.counter.column
            highest = connection.execute(f"SELECT max({column}) FROM {table.name}").get  # noqa: S608
            numbers[key] = max(numbers[key], highest or 0)
    numbers["head"] = max(numbers["head"], *(worker.last_sequence for worker in workers), 0)
    numbers["worker_number"] = max(numbers["worker_number"], *map(number_of, others), 0)
    return numbers


def _workers(connection: apsw.Connection, deleted: set[WorkerId]) -> tuple[list[Worker], dict[WorkerId, str]]:
    """Return the Workers whose rows can be read, by number, and the first problem of each damaged Worker."""
    damaged: dict[WorkerId, str] = {}
    floors = _floors(connection, damaged)
    held = count_all_rows(connection)
    known = set(map(number_of, deleted))
    worker_of, workers = worker_reader(), []
    for row in connection.execute(f"{WORKERS_WITH_STATES} ORDER BY number"):
        number = row[0]
        known.add(number)
        try:
            worker = worker_of(row, floors.get(number, 0))
        except StoreCorrupt as error:
            damaged[worker_id(number)] = error.message
            continue
        workers.append(worker)
        if problem := find_fault(connection, number, worker, held.get(number, NO_ROWS)):
            damaged.setdefault(worker.worker_id, problem)
    for number in find_missing_workers(connection, held, known):
        damaged[worker_id(number)] = "its row is missing"
    for (number,) in connection.execute(_HIDDEN):
        damaged[worker_id(number)] = "it is marked as deleted, but its row is still there"
    for name, problem in damaged.items():
        log.error("cannot serve a damaged Worker", extra={"worker_id": name, "reason": problem})
    return workers, damaged


def _floors(connection: apsw.Connection, damaged: dict[WorkerId, str]) -> dict[int, int]:
    """Return the sequences after which events are retained, by Worker number. A damaged row damages its Worker."""
    floors = {}
    for row in connection.execute(TRIM_POINTS.select):
        try:
            floors[row[0]] = TRIM_POINTS.read(row).sequence
        except StoreCorrupt as error:
            damaged[worker_id(row[0])] = error.message
            floors[row[0]] = row[1]
    return floors


def _activity(connection: apsw.Connection, worker: Worker) -> Activity:
    try:
        return state_at(connection, worker.worker_id, worker.last_sequence).activity
    except (StoreCorrupt, apsw.CorruptError) as error:
        fields = {"worker_id": worker.worker_id, "reason": error}
        log.error("cannot recover the activity of a Worker, assuming that it runs", extra=fields)
        return Activity("running")


def _restored_request(body: bytes) -> tuple[CreateWorkerRequest, tuple[Declaration, ...]]:
    found = _restored(body, DeclaredRequest, "a Worker's request")
    return CreateWorkerRequest(**{name: getattr(found, name) for name in REQUEST_FIELDS}), found.declarations


def _restored_execution(body: bytes) -> tuple[Execution, str | None]:
    found = _restored(body, TitledExecution, "a Worker's execution")
    return Execution(**{name: getattr(found, name) for name in EXECUTION_FIELDS}), found.title


def _restored(body: bytes, kind: type[T], name: str) -> T:
    try:
        return restore(body, kind)
    except ValueError as error:
        raise StoreCorrupt(f"{name} is unknown to this version") from error
