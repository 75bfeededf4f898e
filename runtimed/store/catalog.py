"""What the durable store tells when it is opened: everything but transcripts and events."""

import logging

import apsw

from runtimed.core.activity import Activity
from runtimed.core.change import StoredState, Worker
from runtimed.errors import StoreCorrupt, StoreForeign
from runtimed.model.identity import RuntimeId
from runtimed.store.encoding import HIGH_NUMBERS
from runtimed.store.queries import moment
from runtimed.store.replay import new_runtime_id
from runtimed.store.rows import bundle_of, deleted_of, mark_of, meta_of, meta_row, remark_of, workers_of
from runtimed.store.schema import WRITE_META

_WORKERS = """
    SELECT number, request, worker.checksum,
        status, state.transcript_len, last_sequence, since, state.activity, retained, execution, state.checksum,
        floor.sequence
    FROM worker LEFT JOIN state ON state.worker = number LEFT JOIN floor ON floor.worker = number ORDER BY number
"""

NUMBERS = (*HIGH_NUMBERS, "event_bytes")
"""The keys in `meta` that count: what was given out last of each, and the bytes of the retained events."""

_log = logging.getLogger(__name__)


def load(connection: apsw.Connection, runtime_id: RuntimeId | None) -> tuple[StoredState, dict[str, int]]:
    """The state of the Runtime in this store, which becomes `runtime_id` where there is none yet, and the NUMBERS.

    Raises StoreForeign when there is another, StoreCorrupt when a row of it is damaged. Damaged events are no
    obstacle: their Worker counts as running.
    """
    meta = dict(map(meta_of, connection.execute("SELECT key, value, checksum FROM meta")))
    if not meta:
        meta = {"runtime_id": runtime_id or new_runtime_id(), **dict.fromkeys(NUMBERS, "0")}
        with connection:
            connection.executemany(WRITE_META, [meta_row(*item) for item in meta.items()])
    if not meta.keys() >= {"runtime_id", *NUMBERS}:
        raise StoreCorrupt("a meta row of the store is missing")
    stored = RuntimeId(meta["runtime_id"])
    if runtime_id not in {None, stored}:
        raise StoreForeign(stored, str(runtime_id))
    numbers = {key: int(meta[key]) for key in NUMBERS}
    workers = workers_of(connection.execute(_WORKERS))
    bundles = connection.execute("SELECT id, body, checksum FROM bundle ORDER BY id")
    remarks = connection.execute("SELECT number, worker, body, checksum FROM remark ORDER BY number")
    marks = connection.execute("SELECT sequence, unix_ms, checksum FROM mark ORDER BY sequence")
    deleted = connection.execute("SELECT worker, checksum FROM deleted ORDER BY worker")
    state = StoredState(
        runtime_id=stored,
        head=numbers["head"],
        worker_number=numbers["worker_number"],
        workers=workers,
        activities={w.worker_id: _activity(connection, w) for w in workers if not w.quiet},
        bundles=[bundle_of(row) for row in bundles],
        remarks=[remark_of(row) for row in remarks],
        remark_number=numbers["remark_number"],
        runtime_event_id=numbers["runtime_event_id"],
        marks=[mark_of(row) for row in marks],
        deleted=[deleted_of(row) for row in deleted],
    )
    return state, numbers


def _activity(connection: apsw.Connection, worker: Worker) -> Activity:
    try:
        return moment(connection, worker.worker_id, worker.last_sequence).activity
    except StoreCorrupt as error:
        _log.error("what %s was doing is not known any more: %s", worker.worker_id, error)
        return Activity("running")
