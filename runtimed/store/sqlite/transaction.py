"""One transaction: add the rows of many Changes, then remove what they delete or trim."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from runtimed.core.state.change import Forgotten
from runtimed.store import records
from runtimed.store.encoding import PURGE_ATTACHMENTS, PURGE_ROWS, EncodedChange
from runtimed.store.records import META
from runtimed.store.tables import Row, Table

_TRIM = "DELETE FROM event WHERE worker = ? AND sequence <= ? RETURNING length(payload)"
_PURGE_EVENTS = """
    DELETE FROM event WHERE sequence IN (SELECT sequence FROM event WHERE worker = ? LIMIT ?)
    RETURNING length(payload)
"""
_PURGE_ENTRIES = "DELETE FROM entry WHERE event IN (SELECT event FROM entry WHERE worker = ? LIMIT ?)"
_PURGE_ATTACHMENTS = "DELETE FROM attachment WHERE event IN (SELECT event FROM attachment WHERE worker = ? LIMIT ?)"


def write(
    connection: apsw.Connection, changes: Sequence[EncodedChange], numbers: Mapping[str, int]
) -> dict[str, int]:
    """Write Changes in the transaction that is open.

    Args:
        connection: A connection with an open transaction.
        changes: In the order of the commits.
        numbers: The numbers in `meta` before the transaction.

    Returns:
        The numbers in `meta` after it.
    """
    added: dict[Table[Any, Any], list[Row]] = defaultdict(list)
    for change in changes:
        for table, rows in change.rows.items():
            added[table].extend(rows)
    for table, rows in added.items():
        connection.executemany(table.insert, rows)
    counted = dict(numbers)
    for change in changes:
        counted["event_bytes"] += change.event_bytes - _take_out(connection, change)
        for key, number in change.counters.items():
            counted[key] = max(counted[key], number)
    moved = counted.items() - numbers.items()
    if moved:
        connection.executemany(META.insert, map(META.row, moved))
    return counted


def _take_out(connection: apsw.Connection, change: EncodedChange) -> int:
    """Remove what a Change deletes or trims. Returns the size of the removed events in bytes."""
    if change.forgotten is not None:
        _forget(connection, change.forgotten)
    if change.deleted is not None:
        for table in records.TABLES:
            if table.owner is not None:
                connection.execute(table.delete_of_worker, (change.deleted,))
    if change.revoked is not None:
        connection.execute(records.TOKENS.delete_row, (change.revoked,))
    if change.purged is not None:
        return _purge(connection, change.purged)
    return sum(row[0] for row in connection.execute(_TRIM, change.trimmed)) if change.trimmed else 0


def _forget(connection: apsw.Connection, gone: Forgotten) -> None:
    for table in records.TABLES:
        limit = table.expiry.limit(gone) if table.expiry else None
        if limit is not None:
            connection.execute(table.delete_expired, (limit,))


def _purge(connection: apsw.Connection, worker: int) -> int:
    """Remove up to PURGE_ROWS rows of a deleted Worker. Its row in `deleted` goes together with the last of them."""
    if not connection.execute("SELECT 1 FROM deleted WHERE worker = ?", (worker,)).get:
        return 0
    sizes = [row[0] for row in connection.execute(_PURGE_EVENTS, (worker, PURGE_ROWS))]
    left = PURGE_ROWS - len(sizes)
    if (
        left
        and _is_purged(connection, _PURGE_ENTRIES, worker, left)
        and _is_purged(connection, _PURGE_ATTACHMENTS, worker, PURGE_ATTACHMENTS)
    ):
        connection.execute("DELETE FROM deleted WHERE worker = ?", (worker,))
    return sum(sizes)


def _is_purged(connection: apsw.Connection, delete: str, worker: int, most: int) -> bool:
    """Remove up to `most` rows, and return whether none is left."""
    connection.execute(delete, (worker, most))
    return connection.changes() < most
