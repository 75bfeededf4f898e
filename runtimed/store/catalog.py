"""What the durable store tells when it is opened: everything but transcripts and events."""

import logging

import apsw

from runtimed.core.activity import Activity
from runtimed.core.change import Remark, StoredState, Worker
from runtimed.errors import StoreCorrupt, StoreForeign
from runtimed.model.identity import RuntimeId
from runtimed.store.queries import moment
from runtimed.store.replay import new_runtime_id
from runtimed.store.rows import bundle_of, diagnostic_of, meta_of, meta_row, workers_of
from runtimed.store.schema import WRITE_META

_WORKERS = """
    SELECT number, request, worker.checksum,
        status, transcript_len, last_sequence, since, activity, execution, state.checksum
    FROM worker LEFT JOIN state ON state.worker = number ORDER BY number
"""

_log = logging.getLogger(__name__)


def load(connection: apsw.Connection, runtime_id: RuntimeId | None) -> StoredState:
    """The state of the Runtime in this store, which becomes `runtime_id` where there is none yet.

    Raises StoreForeign when there is another, StoreCorrupt when a row of it is damaged. Damaged events are no
    obstacle: their Worker counts as running.
    """
    meta = dict(map(meta_of, connection.execute("SELECT key, value, checksum FROM meta")))
    if not meta:
        meta = {"runtime_id": runtime_id or new_runtime_id(), "head": "0", "worker_number": "0"}
        with connection:
            connection.executemany(WRITE_META, [meta_row(*item) for item in meta.items()])
    if not meta.keys() >= {"runtime_id", "head", "worker_number"}:
        raise StoreCorrupt("a meta row of the store is missing")
    stored = RuntimeId(meta["runtime_id"])
    if runtime_id not in {None, stored}:
        raise StoreForeign(stored, str(runtime_id))
    workers = workers_of(connection.execute(_WORKERS))
    bundles = connection.execute("SELECT id, body, checksum FROM bundle ORDER BY id")
    diagnostics = connection.execute("SELECT number, body, checksum FROM diagnostic ORDER BY number")
    return StoredState(
        runtime_id=stored,
        head=int(meta["head"]),
        worker_number=int(meta["worker_number"]),
        workers=workers,
        activities={w.worker_id: _activity(connection, w) for w in workers if not w.quiet},
        bundles=[bundle_of(row) for row in bundles],
        remarks=[Remark(row[0], diagnostic_of(row)) for row in diagnostics],
    )


def _activity(connection: apsw.Connection, worker: Worker) -> Activity:
    try:
        return moment(connection, worker.worker_id, worker.last_sequence).activity
    except StoreCorrupt as error:
        _log.error("what %s was doing is not known any more: %s", worker.worker_id, error)
        return Activity("running")
