"""What the durable store tells when it is opened: everything but transcripts and events."""

import logging
from collections.abc import Iterable, Mapping

import apsw

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import StoredState, Worker
from runtimed.errors import StoreCorrupt, StoreForeign
from runtimed.model.identity import RuntimeId, WorkerId, worker_id
from runtimed.store.census import NOTHING, fault, held_by_all, strays
from runtimed.store.encoding import HIGH_NUMBERS
from runtimed.store.queries import state_at
from runtimed.store.replay import new_runtime_id
from runtimed.store.rows import (
    bundle_of,
    deleted_of,
    floor_of,
    mark_of,
    meta_of,
    meta_row,
    number_of,
    readable,
    remark_of,
    worker_reader,
)
from runtimed.store.schema import WRITE_META

WORKERS = """
    SELECT number, request, worker.checksum, created_at_ms,
        status, transcript_len, last_sequence, since, activity, retained, execution, state.checksum, waiting,
        last_event_ms
    FROM worker LEFT JOIN state ON state.worker = number
"""
META = "SELECT key, value, checksum FROM meta"
FLOORS = "SELECT worker, sequence, transcript_len, activity, in_flight, checksum, timestamp_ms FROM floor"
BUNDLES = "SELECT id, body, checksum FROM bundle"
REMARKS = "SELECT number, worker, body, checksum FROM remark"
MARKS = "SELECT sequence, unix_ms, checksum FROM mark"
RUNTIME_EVENTS = "SELECT id, kind, worker, event, unix_ms, checksum FROM runtime_event"
DELETED = "SELECT worker, checksum FROM deleted"

_HIDDEN = "SELECT worker FROM deleted WHERE worker IN (SELECT number FROM worker)"

NUMBERS = (*HIGH_NUMBERS, "event_bytes")
"""The keys in `meta` that count: what was given out last of each, and the bytes of the retained events."""

_HIGHEST = {
    "head": "SELECT max(sequence) FROM event UNION SELECT max(sequence) FROM floor",
    "worker_number": "SELECT max(number) FROM worker",
    "remark_number": "SELECT max(number) FROM remark",
    "runtime_event_id": "SELECT max(id) FROM runtime_event",
}

_log = logging.getLogger(__name__)


def load(connection: apsw.Connection, runtime_id: RuntimeId | None) -> tuple[StoredState, dict[str, int]]:
    """The state of the Runtime in this store, which becomes `runtime_id` where there is none yet, and the NUMBERS.

    Raises StoreForeign when there is another, StoreCorrupt when a row of `meta` is damaged or missing. What is wrong
    with a Worker damages that Worker alone; any other damaged row is left out, and logged. Damaged events are not
    looked for: where they hide what a Worker was doing, it counts as running.
    """
    meta = _meta(connection, runtime_id)
    stored = RuntimeId(meta["runtime_id"])
    if runtime_id not in {None, stored}:
        raise StoreForeign(stored, str(runtime_id))
    deleted = list(readable(connection.execute(DELETED), deleted_of))
    workers, damaged = _workers(connection, set(deleted))
    numbers = _numbers(connection, meta, workers, (*deleted, *damaged))
    state = StoredState(
        runtime_id=stored,
        head=numbers["head"],
        worker_number=numbers["worker_number"],
        workers=workers,
        activities={w.worker_id: _activity(connection, w) for w in workers if not w.quiet},
        bundles=list(readable(connection.execute(f"{BUNDLES} ORDER BY id"), bundle_of)),
        diagnostics=list(readable(connection.execute(f"{REMARKS} ORDER BY number"), remark_of)),
        diagnostic_number=numbers["remark_number"],
        runtime_event_id=numbers["runtime_event_id"],
        marks=list(readable(connection.execute(f"{MARKS} ORDER BY sequence"), mark_of)),
        damaged=damaged,
        deleted=deleted,
    )
    return state, numbers


def _meta(connection: apsw.Connection, runtime_id: RuntimeId | None) -> Mapping[str, str]:
    meta = dict(map(meta_of, connection.execute(META)))
    if not meta:
        meta = {"runtime_id": runtime_id or new_runtime_id(), **dict.fromkeys(NUMBERS, "0")}
        with connection:
            connection.executemany(WRITE_META, [meta_row(*item) for item in meta.items()])
    if not meta.keys() >= {"runtime_id", *NUMBERS}:
        raise StoreCorrupt("a meta row of the store is missing")
    return meta


def _numbers(
    connection: apsw.Connection, meta: Mapping[str, str], workers: Iterable[Worker], others: Iterable[WorkerId]
) -> dict[str, int]:
    """What was given out last: never less than what any table holds."""
    numbers = {key: int(meta[key]) for key in NUMBERS}
    for key, query in _HIGHEST.items():
        numbers[key] = max(numbers[key], *(highest or 0 for (highest,) in connection.execute(query)))
    numbers["head"] = max(numbers["head"], *(worker.last_sequence for worker in workers), 0)
    numbers["worker_number"] = max(numbers["worker_number"], *map(number_of, others), 0)
    return numbers


def _workers(connection: apsw.Connection, deleted: set[WorkerId]) -> tuple[list[Worker], dict[WorkerId, str]]:
    """The Workers whose rows can be read, by number, and what is wrong with those that something is wrong with."""
    damaged: dict[WorkerId, str] = {}
    floors = _floors(connection, damaged)
    held = held_by_all(connection)
    known = set(map(number_of, deleted))
    worker_of, workers = worker_reader(), []
    for row in connection.execute(f"{WORKERS} ORDER BY number"):
        number = row[0]
        known.add(number)
        try:
            worker = worker_of(row, floors.get(number, 0))
        except StoreCorrupt as error:
            damaged[worker_id(number)] = error.message
            continue
        workers.append(worker)
        if problem := fault(connection, number, worker, held.get(number, NOTHING)):
            damaged.setdefault(worker.worker_id, problem)
    for number in strays(connection, held, known):
        damaged[worker_id(number)] = "its row is missing"
    for (number,) in connection.execute(_HIDDEN):
        damaged[worker_id(number)] = "it is deleted, and it is not"
    for name, problem in damaged.items():
        _log.error("%s cannot be served: %s", name, problem)
    return workers, damaged


def _floors(connection: apsw.Connection, damaged: dict[WorkerId, str]) -> dict[int, int]:
    """Where the retained events of each Worker begin; a damaged floor damages its Worker."""
    floors = {}
    for row in connection.execute(FLOORS):
        try:
            floors[row[0]] = floor_of(row).sequence
        except StoreCorrupt as error:
            damaged[worker_id(row[0])] = error.message
            floors[row[0]] = row[1]
    return floors


def _activity(connection: apsw.Connection, worker: Worker) -> Activity:
    try:
        return state_at(connection, worker.worker_id, worker.last_sequence).activity
    except (StoreCorrupt, apsw.CorruptError) as error:
        _log.error("what %s was doing is not known any more: %s", worker.worker_id, error)
        return Activity("running")
