"""Counts of each Worker's rows. They reveal missing rows without a read of all rows."""

from collections.abc import Mapping

import apsw
import attrs

from runtimed.core.state.change import Worker
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import cursor_of
from runtimed.store import records
from runtimed.store.records import ENTRIES, EVENTS

MAX_NUMBER = 0xFFFFFFFF
"""The highest number that a Worker id can hold."""

_ENDS = """
    SELECT number,
        (SELECT max(sequence) FROM event WHERE worker = number),
        (SELECT previous FROM event WHERE worker = number ORDER BY sequence LIMIT 1),
        (SELECT max(sequence) FROM entry WHERE worker = number)
    FROM worker
"""
_MISSING_ENTRY = """
    SELECT min(sequence) + 1 FROM entry AS earlier WHERE worker = :worker
    AND NOT EXISTS (SELECT 1 FROM entry WHERE worker = :worker AND sequence = earlier.sequence + 1)
"""
_FIRST_ENTRY = "SELECT 1 FROM entry WHERE worker = ? AND sequence = 1"
_MISSING_EVENT = """
    SELECT min(previous) FROM event WHERE worker = :worker AND previous > :floor
    AND previous NOT IN (SELECT sequence FROM event WHERE worker = :worker)
"""


@attrs.frozen
class RowCounts:
    """The rows of one Worker.

    Attributes:
        events: How many events there are.
        entries: How many entries there are.
        newest: The sequence of the newest event.
        before: The sequence of the event before the oldest one.
        newest_entry: The sequence of the newest entry.
    """

    events: int = 0
    entries: int = 0
    newest: int = 0
    before: int = 0
    newest_entry: int = 0


NO_ROWS = RowCounts()


def count_rows(connection: apsw.Connection, number: int) -> RowCounts:
    """Count the rows of one Worker."""
    counts = [
        connection.execute(f"SELECT count(*) FROM {table.name} WHERE worker = ?", (number,)).get  # noqa: S608
        for table in (EVENTS, ENTRIES)
    ]
    ends = connection.execute(f"{_ENDS} WHERE number = ?", (number,)).get[1:]
    return RowCounts(*counts, *(end or 0 for end in ends))


def count_all_rows(connection: apsw.Connection) -> Mapping[int, RowCounts]:
    """Count the rows of every Worker that has any. This reads indexes only."""
    events, entries = (
        dict(connection.execute(f"SELECT worker, count(*) FROM {table.name} GROUP BY worker"))  # noqa: S608
        for table in (EVENTS, ENTRIES)
    )
    ends = {number: ends for number, *ends in connection.execute(_ENDS)}
    return {
        number: RowCounts(events.get(number, 0), entries.get(number, 0), *(end or 0 for end in ends.get(number, ())))
        for number in events.keys() | entries.keys()
    }


def find_fault(connection: apsw.Connection, number: int, worker: Worker, held: RowCounts) -> str | None:
    """Return a description of what is missing from a Worker, or None."""
    if not held.entries == held.newest_entry == worker.transcript_len:
        return _wrong_entries(connection, number, worker, held)
    whole = held.events == worker.retained and max(held.newest, worker.retained_after) == worker.last_sequence
    if not whole or (held.events and held.before != worker.retained_after):
        return _wrong_events(connection, number, worker, held)
    return None


def find_orphans(connection: apsw.Connection) -> list[int]:
    """Return the numbers of Workers that have a row in a table with one row per Worker, but none in `worker`."""
    tables = [table for table in records.TABLES if table.owner == table.key and table is not records.WORKERS]
    query = " UNION ".join(
        f"SELECT {table.key} FROM {table.name} WHERE {table.key} NOT IN (SELECT number FROM worker)"  # noqa: S608
        for table in tables
    )
    return sorted(number for (number,) in connection.execute(query))


def find_missing_workers(connection: apsw.Connection, held: Mapping[int, RowCounts], known: set[int]) -> list[int]:
    """Return the numbers of Workers that have rows elsewhere, but none in `worker`. Damaged rows do not count."""
    left = {number for number in held.keys() - known if _is_of(connection, number, held[number])}
    return sorted(number for number in left.union(find_orphans(connection)) if 0 < number <= MAX_NUMBER)


def _is_of(connection: apsw.Connection, number: int, held: RowCounts) -> bool:
    try:
        table = EVENTS if held.events else ENTRIES
        return bool(
            [table.read(row) for row in connection.execute(f"{table.select} WHERE worker = ? LIMIT 1", (number,))]
        )
    except StoreCorrupt:
        return False


def _wrong_entries(connection: apsw.Connection, number: int, worker: Worker, held: RowCounts) -> str:
    if held.entries > worker.transcript_len:
        return f"there are {held.entries} entries, not {worker.transcript_len}"
    first = connection.execute(_FIRST_ENTRY, (number,)).get
    missing = connection.execute(_MISSING_ENTRY, {"worker": number}).get if first else 1
    return f"the entry {missing} is missing"


def _wrong_events(connection: apsw.Connection, number: int, worker: Worker, held: RowCounts) -> str:
    missing = connection.execute(_MISSING_EVENT, {"worker": number, "floor": worker.retained_after}).get
    if missing is None and max(held.newest, worker.retained_after) < worker.last_sequence:
        missing = worker.last_sequence
    if missing is not None:
        return f"the event {cursor_of(missing)} is missing"
    return f"there are {held.events} events, not {worker.retained}"
