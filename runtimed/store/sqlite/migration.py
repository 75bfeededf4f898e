"""Migration of tables from earlier versions. A damaged row stays damaged: its new checksum does not match either."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from struct import error as StructError  # noqa: N812 it is a class
from struct import pack
from typing import Any
from zlib import crc32

import apsw

from runtimed.errors import StoreCorrupt
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import worker_number
from runtimed.store.records import (
    ACTIVITIES,
    MARKS,
    META,
    ROLES,
    RUNTIME_EVENTS,
    STATUSES,
    WORKERS,
    number_of,
    skip_damaged,
)
from runtimed.store.tables import Row
from runtimed.wire.converter import restore

TIMES = {
    "worker": "created_at_ms",
    "state": "last_event_ms",
    "event": "timestamp_ms",
    "floor": "timestamp_ms",
    "entry": "timestamp_ms",
}
"""The time column that version 4 adds, by table."""

_FIRST_EVENT = """
    SELECT min(sequence) FROM (
        SELECT event AS sequence FROM entry WHERE worker = number AND entry.sequence = 1
        UNION ALL SELECT min(sequence) FROM event WHERE worker = number
        UNION ALL SELECT sequence FROM floor WHERE worker = number
    )
"""


def _set_times(table: str, time: str, body: str, tail: str, key: str) -> str:
    return f"""
        UPDATE {table} SET {TIMES[table]} = {time},
        checksum = checksum_with_time('{table}', {time}, checksum, {body}, {tail}, {key})
    """  # noqa: S608 all of it stands in this module


_SET_TIMES = (
    _set_times(
        "event", "time_at(sequence)", "payload", "x''", "sequence, worker, previous, since, transcript_len, activity"
    ),
    _set_times("entry", "time_at(event)", "content", "x''", "event, worker, sequence, role"),
    _set_times("floor", "time_at(sequence)", "in_flight", "x''", "worker, sequence, transcript_len, activity"),
    _set_times("worker", f"time_created(number, ({_FIRST_EVENT}))", "request", "x''", "number"),
    _set_times(
        "state",
        """iif(last_sequence, time_at(last_sequence),
            coalesce((SELECT created_at_ms FROM worker WHERE number = state.worker), 0))""",
        "execution",
        "waiting",
        "worker, status, transcript_len, last_sequence, since, activity, retained",
    ),
)

_REPLACEMENTS = {"INTEGER": "-rowid", "TEXT": "''", "BLOB": "x''"}
"""The value that replaces a cell of the wrong type, by column type. Numbers differ by row: some must be unique."""

_DAMAGED = -1
"""A checksum that no row has."""

OF_CLIENTS = ((WORKERS, ("tenant",)), (RUNTIME_EVENTS, ("tenant", "actor")))
"""The columns that version 6 adds, by table."""

TABLES = ("meta", "worker", "state", "event", "entry", "bundle", "diagnostic")


def replace_misfits(connection: apsw.Connection, tables: Iterable[str] = TIMES) -> None:
    """Replace cells of the wrong type, and give their rows a checksum that does not match.

    SQLite refuses to add a column to a table while it has such a cell.
    """
    for table in tables:
        info: list[Row] = connection.execute(f"PRAGMA table_info({table})").fetchall()
        columns = [(name, kind) for _, name, kind, *_ in info if kind]
        nullable = {name for _, name, _, not_null, _, key in info if not (not_null or key)}
        fits = {name: _fit(name, kind, nullable=name in nullable) for name, kind in columns}
        misfit = f"NOT ({' AND '.join(fits.values())})"
        if not columns or not connection.execute(f"SELECT 1 FROM {table} WHERE {misfit} LIMIT 1").get:  # noqa: S608
            continue
        changes = [
            f"{name} = {_DAMAGED if name == 'checksum' else f'iif({fits[name]}, {name}, {_REPLACEMENTS[kind]})'}"
            for name, kind in columns
        ]
        indexes = list(
            connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?", (table,))
        )
        for index, _ in indexes:
            connection.execute(f"DROP INDEX {index}")
        connection.execute(f"UPDATE {table} SET {', '.join(changes)} WHERE {misfit}")  # noqa: S608
        for _, sql in indexes:
            connection.execute(sql)


def _fit(name: str, kind: str, *, nullable: bool) -> str:
    """Return the condition in SQL that a cell has the type of its column."""
    kinds = (kind.lower(), "null") if nullable else (kind.lower(),)
    return f"typeof({name}) IN ({', '.join(map(repr, kinds))})"


def add_waiting(connection: apsw.Connection) -> None:
    """Migrate version 2: add an empty queue of inputs to each Worker. Its checksum stays the same."""
    connection.execute("ALTER TABLE state ADD COLUMN waiting BLOB NOT NULL DEFAULT x''")


def add_times(connection: apsw.Connection) -> None:
    """Migrate version 3: add the time columns, which `set_times` fills."""
    for table, column in TIMES.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")


def add_clients(connection: apsw.Connection) -> None:
    """Migrate version 5: add the columns of tenants and clients, empty for none. Checksums of rows stay the same."""
    for table, columns in OF_CLIENTS:
        present = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table.name})")}
        if present.issuperset(columns):
            continue
        replace_misfits(connection, (table.name,))
        for column in columns:
            connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
        for index in table.indexes:
            connection.execute(index)


def set_times(connection: apsw.Connection, unix_ms: int) -> None:
    """Set the time of each row to the time of its nearest mark.

    A Worker gets the time of its first event, or if it has none the time of the runtime event of its creation.

    Args:
        connection: A connection that writes.
        unix_ms: The time to use if there is no mark, as Unix time in milliseconds.
    """
    times = _Times(connection, unix_ms)
    functions: dict[str, Callable[..., Any]] = {
        "time_at": times.at,
        "time_created": times.created,
        "checksum_with_time": _with_time,
    }
    for name, function in functions.items():
        connection.create_scalar_function(name, function)
    for update in _SET_TIMES:
        connection.execute(update)
    for name in functions:
        connection.create_scalar_function(name, None)


class _Times:
    """Estimates the time of a sequence from the marks."""

    def __init__(self, connection: apsw.Connection, unix_ms: int) -> None:
        marks = list(skip_damaged(MARKS, connection.execute(f"{MARKS.select} ORDER BY sequence")))
        self._halfways = [before.sequence + after.sequence for before, after in pairwise(marks)]
        self._times = list(accumulate((mark.unix_ms for mark in marks), max)) or [unix_ms]
        creations = connection.execute(f"{RUNTIME_EVENTS.select} WHERE kind = 'worker_created'")
        self._created = {
            number_of(event.worker_id): event.timestamp_ms
            for event in skip_damaged(RUNTIME_EVENTS, creations)
            if event.worker_id is not None
        }
        self._unix_ms = unix_ms

    def at(self, sequence: int) -> int:
        """Return the time of the nearest mark; of two equally near marks, the later one."""
        return self._times[bisect_right(self._halfways, 2 * sequence)]

    def created(self, number: int, first: int | None) -> int:
        """Return the creation time of the Worker with this number, whose first event has the sequence `first`."""
        return self.at(first) if first else self._created.get(number, self._unix_ms)


def _with_time(table: str, time: int, stored: int, body: bytes, tail: bytes, *key: int) -> int:
    """Return the checksum of a row with its time. If the stored checksum did not match, neither does the new one."""
    name = table.encode()
    try:
        sound = crc32(tail, _checksum(name, body, *key)) == stored
        return crc32(tail, _checksum(name, body, *key, time)) ^ (not sound)
    except (TypeError, StructError):
        return stored


def set_aside(connection: apsw.Connection) -> None:
    """Rename the tables of version 1, so that tables of the current version can have their names."""
    connection.execute("DROP INDEX event_worker; DROP INDEX entry_worker")
    for table in TABLES:
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}_1")


def bring_forward(connection: apsw.Connection) -> None:
    """Copy the renamed tables of version 1 into those of the current version, and drop them.

    Raises:
        StoreCorrupt: A column holds a value that version 1 never wrote.
    """
    retained: Counter[int] = Counter()
    steps = [
        ("INSERT INTO meta VALUES (?, ?, ?)", _meta(connection)),
        ("INSERT INTO worker VALUES (?, ?, ?, 0, '')", _workers(connection)),
        ("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", _events(connection, retained)),
        ("INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, x'', 0)", _states(connection, retained)),
        ("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, 0)", _entries(connection)),
        ("INSERT INTO bundle VALUES (?, ?, ?)", _bundles(connection)),
        ("INSERT INTO remark VALUES (?, ?, ?, ?)", _remarks(connection)),
    ]
    for insert, rows in steps:
        try:
            connection.executemany(insert, rows)
        except (TypeError, StructError, apsw.ConstraintError) as error:
            raise StoreCorrupt(f"the store cannot be migrated from version 1: {error}") from error
    _high_numbers(connection)
    for table in TABLES:
        connection.execute(f"DROP TABLE {table}_1")


def _checksum(table: bytes, body: bytes, *key: int) -> int:
    return crc32(body, crc32(pack(f"<{len(key)}q", *key), crc32(table)))


def _text_checksum(table: bytes, body: bytes, key: str) -> int:
    return crc32(body, crc32(key.encode(), crc32(table)))


def _sound(stored: object, body: bytes, *key: object) -> bool:
    return crc32(body, crc32(repr(key).encode())) == stored


def _code(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _meta(connection: apsw.Connection) -> Iterator[Row]:
    for key, value, stored in connection.execute("SELECT key, value, checksum FROM meta_1"):
        sound = _sound(stored, value.encode(), "meta", key)
        yield key, value, _text_checksum(b"meta", value.encode(), key) ^ (not sound)


def _workers(connection: apsw.Connection) -> Iterator[Row]:
    for number, request, stored in connection.execute("SELECT number, request, checksum FROM worker_1"):
        sound = _sound(stored, request, "worker", number)
        yield number, request, _checksum(b"worker", request, number) ^ (not sound)


def _events(connection: apsw.Connection, retained: Counter[int]) -> Iterator[Row]:
    newest: dict[int, int] = {}
    query = """
        SELECT payload, checksum, sequence, worker, since, transcript_len, activity FROM event_1 ORDER BY sequence
    """
    for payload, stored, *old in connection.execute(query):
        sequence, worker, since, transcript_len, activity = old
        sound = _sound(stored, payload, "event", *old)
        key = (sequence, worker, newest.get(worker, 0), since, transcript_len, _code(ACTIVITIES, activity))
        newest[worker] = sequence
        retained[worker] += 1
        yield *key, payload, _checksum(b"event", payload, *key) ^ (not sound)


def _states(connection: apsw.Connection, retained: Counter[int]) -> Iterator[Row]:
    query = """
        SELECT execution, checksum, worker, status, transcript_len, last_sequence, since, activity FROM state_1
    """
    for execution, stored, *old in connection.execute(query):
        worker, status, transcript_len, last_sequence, since, activity = old
        sound = _sound(stored, execution, "state", *old)
        codes = (_code(STATUSES, status), _code(ACTIVITIES, activity))
        key = (worker, codes[0], transcript_len, last_sequence, since, codes[1], retained[worker])
        yield *key, execution, _checksum(b"state", execution, *key) ^ (not sound)


def _entries(connection: apsw.Connection) -> Iterator[Row]:
    query = "SELECT content, checksum, event, worker, sequence, role FROM entry_1 ORDER BY event"
    for content, stored, *old in connection.execute(query):
        event, worker, sequence, role = old
        sound = _sound(stored, content, "entry", *old)
        key = (event, worker, sequence, _code(ROLES, role))
        yield *key, content, _checksum(b"entry", content, *key) ^ (not sound)


def _bundles(connection: apsw.Connection) -> Iterator[Row]:
    for key, body, stored in connection.execute("SELECT id, body, checksum FROM bundle_1"):
        sound = _sound(stored, body, "bundle", key)
        yield key, body, _text_checksum(b"bundle", body, key) ^ (not sound)


def _remarks(connection: apsw.Connection) -> Iterator[Row]:
    for number, body, stored in connection.execute("SELECT number, body, checksum FROM diagnostic_1"):
        sound = _sound(stored, body, "diagnostic")
        about = restore(body, Diagnostic).worker_id if sound else None
        worker = None if about is None else worker_number(about)
        key = (number, -1 if worker is None else worker)
        yield number, worker, body, _checksum(b"remark", body, *key) ^ (not sound)


def _high_numbers(connection: apsw.Connection) -> None:
    event_bytes = connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM event").get
    remarks = connection.execute("SELECT coalesce(max(number), 0) FROM remark").get
    new = {"event_bytes": event_bytes, "remark_number": remarks, "runtime_event_id": 0}
    connection.executemany(META.insert, map(META.row, new.items()))
