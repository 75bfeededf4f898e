"""From earlier versions of the tables to this one. A row that was damaged stays so: its checksum does not match."""

from collections import Counter
from collections.abc import Iterator, Sequence
from struct import error as StructError  # noqa: N812 it is a class
from zlib import crc32

import apsw

from runtimed.errors import StoreCorrupt
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import worker_number
from runtimed.store.rows import ACTIVITIES, ROLES, STATUSES, Row, checksum, event_checksum, meta_row, text_checksum
from runtimed.wire.converter import restore

TABLES = ("meta", "worker", "state", "event", "entry", "bundle", "diagnostic")


def add_waiting(connection: apsw.Connection) -> None:
    """From version 2: nothing waits, and over nothing a checksum is what it was."""
    connection.execute("ALTER TABLE state ADD COLUMN waiting BLOB NOT NULL DEFAULT x''")


def set_aside(connection: apsw.Connection) -> None:
    """Make way for the tables of this version."""
    connection.execute("DROP INDEX event_worker; DROP INDEX entry_worker")
    for table in TABLES:
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}_1")


def bring_forward(connection: apsw.Connection) -> None:
    """Fill the tables of this version from those that were set aside, and remove these.

    Raises StoreCorrupt where one of them has a column that is nothing of what version 1 wrote.
    """
    retained: Counter[int] = Counter()
    steps = [
        ("INSERT INTO meta VALUES (?, ?, ?)", _meta(connection)),
        ("INSERT INTO worker VALUES (?, ?, ?)", _workers(connection)),
        ("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _events(connection, retained)),
        ("INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, x'')", _states(connection, retained)),
        ("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", _entries(connection)),
        ("INSERT INTO bundle VALUES (?, ?, ?)", _bundles(connection)),
        ("INSERT INTO remark VALUES (?, ?, ?, ?)", _remarks(connection)),
    ]
    for insert, rows in steps:
        try:
            connection.executemany(insert, rows)
        except (TypeError, StructError, apsw.ConstraintError) as error:
            raise StoreCorrupt(f"the store cannot be brought forward from version 1: {error}") from error
    _high_numbers(connection)
    for table in TABLES:
        connection.execute(f"DROP TABLE {table}_1")


def _sound(stored: object, body: bytes, *key: object) -> bool:
    return crc32(body, crc32(repr(key).encode())) == stored


def _code(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _meta(connection: apsw.Connection) -> Iterator[Row]:
    for key, value, stored in connection.execute("SELECT key, value, checksum FROM meta_1"):
        sound = _sound(stored, value.encode(), "meta", key)
        yield key, value, text_checksum(b"meta", value.encode(), key) ^ (not sound)


def _workers(connection: apsw.Connection) -> Iterator[Row]:
    for number, request, stored in connection.execute("SELECT number, request, checksum FROM worker_1"):
        sound = _sound(stored, request, "worker", number)
        yield number, request, checksum(b"worker", request, number) ^ (not sound)


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
        yield *key, payload, event_checksum(payload, *key) ^ (not sound)


def _states(connection: apsw.Connection, retained: Counter[int]) -> Iterator[Row]:
    query = """
        SELECT execution, checksum, worker, status, transcript_len, last_sequence, since, activity FROM state_1
    """
    for execution, stored, *old in connection.execute(query):
        worker, status, transcript_len, last_sequence, since, activity = old
        sound = _sound(stored, execution, "state", *old)
        codes = (_code(STATUSES, status), _code(ACTIVITIES, activity))
        key = (worker, codes[0], transcript_len, last_sequence, since, codes[1], retained[worker])
        yield *key, execution, checksum(b"state", execution, *key) ^ (not sound)


def _entries(connection: apsw.Connection) -> Iterator[Row]:
    query = "SELECT content, checksum, event, worker, sequence, role FROM entry_1 ORDER BY event"
    for content, stored, *old in connection.execute(query):
        event, worker, sequence, role = old
        sound = _sound(stored, content, "entry", *old)
        key = (event, worker, sequence, _code(ROLES, role))
        yield *key, content, checksum(b"entry", content, *key) ^ (not sound)


def _bundles(connection: apsw.Connection) -> Iterator[Row]:
    for key, body, stored in connection.execute("SELECT id, body, checksum FROM bundle_1"):
        sound = _sound(stored, body, "bundle", key)
        yield key, body, text_checksum(b"bundle", body, key) ^ (not sound)


def _remarks(connection: apsw.Connection) -> Iterator[Row]:
    for number, body, stored in connection.execute("SELECT number, body, checksum FROM diagnostic_1"):
        sound = _sound(stored, body, "diagnostic")
        about = restore(body, Diagnostic).worker_id if sound else None
        worker = None if about is None else worker_number(about)
        key = (number, -1 if worker is None else worker)
        yield number, worker, body, checksum(b"remark", body, *key) ^ (not sound)


def _high_numbers(connection: apsw.Connection) -> None:
    event_bytes = connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM event").get
    remarks = connection.execute("SELECT coalesce(max(number), 0) FROM remark").get
    new = {"event_bytes": event_bytes, "remark_number": remarks, "runtime_event_id": 0}
    connection.executemany("INSERT INTO meta VALUES (?, ?, ?)", [meta_row(*item) for item in new.items()])
