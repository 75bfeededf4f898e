"""What one transaction writes: the rows of many Changes, then what they take out."""

from collections.abc import Mapping, Sequence

import apsw

from runtimed.store.encoding import PURGE_ROWS, Rows
from runtimed.store.rows import meta_row
from runtimed.store.schema import WRITE_META, WRITES

_TRIM = "DELETE FROM event WHERE worker = ? AND sequence <= ? RETURNING length(payload)"
_DELETE = (
    "DELETE FROM worker WHERE number = ?",
    "DELETE FROM state WHERE worker = ?",
    "DELETE FROM floor WHERE worker = ?",
    "DELETE FROM remark WHERE worker = ?",
)
_PURGE_EVENTS = """
    DELETE FROM event WHERE sequence IN (SELECT sequence FROM event WHERE worker = ? LIMIT ?)
    RETURNING length(payload)
"""
_PURGE_ENTRIES = "DELETE FROM entry WHERE event IN (SELECT event FROM entry WHERE worker = ? LIMIT ?)"
_FORGET = {
    "diagnostics": "DELETE FROM remark WHERE number <= ?",
    "runtime_events_left": """
        DELETE FROM runtime_event WHERE id <= (SELECT id FROM runtime_event ORDER BY id DESC LIMIT 1 OFFSET ?)
    """,
    "marks": "DELETE FROM mark WHERE sequence <= ?",
}


def write(connection: apsw.Connection, changes: Sequence[Rows], numbers: Mapping[str, int]) -> dict[str, int]:
    """Write Changes in the transaction that is open, and return what becomes of the counts in `meta`."""
    for table, statement in WRITES.items():
        rows = [row for change in changes if table in change.tables for row in change.tables[table]]
        if rows:
            connection.executemany(statement, rows)
    counted = dict(numbers)
    for change in changes:
        counted["event_bytes"] += change.event_bytes - _take_out(connection, change)
        for key, number in change.high.items():
            counted[key] = max(counted[key], number)
    moved = counted.items() - numbers.items()
    if moved:
        connection.executemany(WRITE_META, [meta_row(*item) for item in moved])
    return counted


def _take_out(connection: apsw.Connection, change: Rows) -> int:
    """Remove what a Change ends, and return the bytes of the events among it."""
    if change.forgotten is not None:
        for kind, statement in _FORGET.items():
            if (place := getattr(change.forgotten, kind)) is not None:
                connection.execute(statement, (place,))
    if change.deleted is not None:
        for statement in _DELETE:
            connection.execute(statement, (change.deleted,))
    if change.purged is not None:
        return _purge(connection, change.purged)
    return sum(row[0] for row in connection.execute(_TRIM, change.trimmed)) if change.trimmed else 0


def _purge(connection: apsw.Connection, worker: int) -> int:
    """Remove some of what is left of a Worker, if it is deleted; in the end, that it was."""
    if not connection.execute("SELECT 1 FROM deleted WHERE worker = ?", (worker,)).get:
        return 0
    sizes = [row[0] for row in connection.execute(_PURGE_EVENTS, (worker, PURGE_ROWS))]
    left = PURGE_ROWS - len(sizes)
    if left:
        connection.execute(_PURGE_ENTRIES, (worker, left))
        if connection.changes() < left:
            connection.execute("DELETE FROM deleted WHERE worker = ?", (worker,))
    return sum(sizes)
