"""Stores of earlier versions, made with their own SQL, in the hands of this version."""

import json
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, get_args

import apsw
import attrs
import pytest

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, IdempotencyRecord, NumberedDiagnostic, TokenRecord, Worker
from runtimed.errors import StoreCorrupt
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus, InFlight, TextBlock
from runtimed.model.execution import Execution, WorkerStatus
from runtimed.model.identity import worker_id
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.token import Token
from runtimed.model.transcript import Role
from runtimed.model.worker import CreateWorkerRequest, TaskIntent
from runtimed.store.records import ACTIVITIES, ROLES, STATUSES
from runtimed.store.sqlite.schema import VERSION
from tests.store.conftest import Driven, Inputs, NewStore

WIDE = PageSize(items=1_000, max_bytes=1_000_000)
FIRST, SECOND, THIRD, FOURTH = map(worker_id, range(1, 5))
NOW_MS = 1_800_000_000_000


@attrs.frozen
class FixedClock:
    """A clock that always tells the same time."""

    now_ms: int

    def unix_ms(self) -> int:
        return self.now_ms


VERSION_1 = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE worker (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE state (
    worker INTEGER PRIMARY KEY, status TEXT NOT NULL, transcript_len INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL, since INTEGER NOT NULL, activity TEXT NOT NULL,
    execution BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY, worker INTEGER NOT NULL, since INTEGER NOT NULL,
    transcript_len INTEGER NOT NULL, activity TEXT NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX event_worker ON event (worker);
CREATE TABLE entry (
    event INTEGER PRIMARY KEY, worker INTEGER NOT NULL, sequence INTEGER NOT NULL,
    role TEXT NOT NULL, content BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entry_worker ON entry (worker, sequence);
CREATE TABLE bundle (
    id TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE diagnostic (
    number INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 1;
"""


def summed(table: str, key: tuple[Any, ...], body: bytes) -> tuple[Any, ...]:
    """A row as version 1 wrote it: the columns, the body, and the checksum over both."""
    return *key, body, zlib.crc32(body, zlib.crc32(repr((table, *key)).encode()))


def meta(key: str, value: str) -> tuple[Any, ...]:
    return key, value, zlib.crc32(value.encode(), zlib.crc32(repr(("meta", key)).encode()))


def body(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def said(text: str) -> bytes:
    return body({"event": "user_message", "data": {"segments": [{"kind": "text", "content": text}]}})


def streamed(text: str) -> bytes:
    return body({"event": "text_delta", "data": {"text": text}})


def make_version_1(folder: Path) -> apsw.Connection:
    """Two Workers: the first is writing a text, the second was stopped."""
    folder.mkdir(mode=0o700)
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.pragma("journal_mode", "WAL")
    connection.execute(VERSION_1)
    idle = body({"backend": "connected", "run_state": "idle"})
    tables: dict[str, list[tuple[Any, ...]]] = {
        "meta": [meta("runtime_id", "runtime-old"), meta("head", "9"), meta("worker_number", "3")],
        "worker": [
            summed("worker", (1,), b"{}"),
            summed("worker", (2,), body({"intent": {"kind": "task", "objective": "do"}})),
        ],
        "state": [
            summed("state", (1, "running", 1, 5, 3, "running"), idle),
            summed("state", (2, "stopped", 1, 4, 0, "idle"), idle),
        ],
        "event": [
            summed("event", (1, 1, 0, 1, "running"), said("hi")),
            summed("event", (2, 2, 0, 1, "running"), said("ho")),
            summed("event", (3, 1, 3, 1, "running"), streamed("Hel")),
            summed("event", (4, 2, 0, 1, "idle"), body({"event": "run_end", "data": {"result": "finished"}})),
            summed("event", (5, 1, 3, 1, "running"), streamed("lo")),
        ],
        "entry": [summed("entry", (1, 1, 1, "user"), b"hi"), summed("entry", (2, 2, 1, "system"), b"ho")],
        "bundle": [],
    }
    for table, rows in tables.items():
        for row in rows:
            connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    remarks = [
        {"code": "c", "severity": "info", "message": "m", "worker_id": FIRST},
        {"code": "d", "severity": "error", "message": "n"},
    ]
    for number, remark in enumerate(remarks, 1):
        told = body(remark)
        stored = zlib.crc32(told, zlib.crc32(repr(("diagnostic",)).encode()))
        connection.execute("INSERT INTO diagnostic VALUES (?, ?, ?)", (number, told, stored))
    return connection


VERSION_2 = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE worker (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE state (
    worker INTEGER PRIMARY KEY, status INTEGER NOT NULL, transcript_len INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL, since INTEGER NOT NULL, activity INTEGER NOT NULL,
    retained INTEGER NOT NULL, execution BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY, worker INTEGER NOT NULL, previous INTEGER NOT NULL, since INTEGER NOT NULL,
    transcript_len INTEGER NOT NULL, activity INTEGER NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX event_worker ON event (worker);
CREATE TABLE floor (
    worker INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, transcript_len INTEGER NOT NULL,
    activity INTEGER NOT NULL, in_flight BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX floor_sequence ON floor (sequence);
CREATE TABLE entry (
    event INTEGER PRIMARY KEY, worker INTEGER NOT NULL, sequence INTEGER NOT NULL,
    role INTEGER NOT NULL, content BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entry_worker ON entry (worker, sequence);
CREATE TABLE bundle (
    id TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE remark (
    number INTEGER PRIMARY KEY, worker INTEGER, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE runtime_event (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, worker INTEGER, event INTEGER, unix_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE mark (
    sequence INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE deleted (
    worker INTEGER PRIMARY KEY, checksum INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 2;
"""


def packed(table: str, key: tuple[int, ...], body: bytes) -> tuple[Any, ...]:
    """A row as version 2 wrote it."""
    return *key, body, zlib.crc32(body, zlib.crc32(struct.pack(f"<{len(key)}q", *key), zlib.crc32(table.encode())))


def named(table: str, key: str, text: str) -> tuple[Any, ...]:
    """A row of version 2 that is known by a text."""
    return key, text, zlib.crc32(text.encode(), zlib.crc32(key.encode(), zlib.crc32(table.encode())))


def make_version_2(folder: Path) -> apsw.Connection:
    """One Worker, amid a text whose beginning is not retained any more."""
    folder.mkdir(mode=0o700)
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.pragma("journal_mode", "WAL")
    connection.execute(VERSION_2)
    busy = body({"backend": "connected", "run_state": "busy"})
    open_text = body({"blocks": [{"kind": "text", "text": "Hel"}]})
    numbers = {"head": 3, "worker_number": 1, "remark_number": 0, "runtime_event_id": 0, "event_bytes": 44}
    tables: dict[str, list[tuple[Any, ...]]] = {
        "meta": [
            named("meta", "runtime_id", "runtime-old"),
            *(named("meta", key, str(number)) for key, number in numbers.items()),
        ],
        "worker": [packed("worker", (1,), b"{}")],
        "state": [packed("state", (1, 0, 1, 3, 2, 1, 1), busy)],
        "event": [packed("event", (3, 1, 2, 2, 1, 1), streamed("lo"))],
        "floor": [packed("floor", (1, 2, 1, 1), open_text)],
        "entry": [packed("entry", (1, 1, 1, 0), b"hi")],
    }
    for table, rows in tables.items():
        for row in rows:
            connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    return connection


def version(folder: Path) -> int:
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    found: int = connection.pragma("user_version")
    connection.close()
    return found


def test_a_store_of_version_1_is_brought_forward_with_all_that_is_in_it(new_store: NewStore, folder: Path) -> None:
    make_version_1(folder).close()
    for _ in range(2):
        store = new_store(clock=FixedClock(NOW_MS))
        state = store.open()
        idle, now = Execution("connected", "idle"), NOW_MS
        assert (state.runtime_id, state.head, state.worker_number) == ("runtime-old", 9, 3)
        assert list(state.workers) == [
            Worker(
                FIRST,
                CreateWorkerRequest(),
                "running",
                idle,
                1,
                5,
                3,
                "running",
                retained=3,
                created_at_ms=now,
                last_event_ms=now,
            ),
            Worker(
                SECOND,
                CreateWorkerRequest(TaskIntent("do")),
                "stopped",
                idle,
                1,
                4,
                0,
                "idle",
                retained=2,
                created_at_ms=now,
                last_event_ms=now,
            ),
        ]
        assert state.activities[FIRST].in_flight() == InFlight((TextBlock("Hello"),))
        assert list(state.diagnostics) == [
            NumberedDiagnostic(1, Diagnostic("c", "info", "m", FIRST)),
            NumberedDiagnostic(2, Diagnostic("d", "error", "n")),
        ]
        assert (state.diagnostic_number, state.runtime_event_id, list(state.marks)) == (2, 0, [])
        assert (store.entries(1), store.entries(2)) == (["hi"], ["ho"])
        assert (store.events(1), store.events(2)) == ([1, 3, 5], [2, 4])
        assert store.store.event_bytes == sum(
            map(len, [said("hi"), said("ho"), streamed("Hel"), streamed("lo")])
        ) + len(b'{"event":"run_end","data":{"result":"finished"}}')
        assert store.state_at(2, 4).activity == Activity("idle")
        store.close()
        assert version(folder) == VERSION


@pytest.mark.parametrize(
    ("sql", "number", "named"),
    [
        ("UPDATE event SET payload = x'7b7d' WHERE sequence = 3", 1, "the event wo_0000000000000003 .* is damaged"),
        ("UPDATE event SET activity = 'odd' WHERE sequence = 3", 1, "the event wo_0000000000000003 .* is damaged"),
        ("UPDATE entry SET content = x'7b7d' WHERE worker = 2", 2, "the entry 1 of worker-00000002 is damaged"),
    ],
)
def test_what_was_damaged_before_is_still_damaged_after(
    new_store: NewStore, folder: Path, sql: str, number: int, named: str
) -> None:
    connection = make_version_1(folder)
    connection.execute(sql)
    connection.close()
    store = new_store()
    store.open()
    with pytest.raises(StoreCorrupt, match=named):
        (store.events(number), store.events(number, after=1), store.entries(number))


def test_a_store_that_cannot_be_brought_forward_is_left_as_it_is(new_store: NewStore, folder: Path) -> None:
    connection = make_version_1(folder)
    connection.execute("DROP TABLE diagnostic; CREATE TABLE diagnostic (number INTEGER PRIMARY KEY, body, checksum)")
    connection.execute("INSERT INTO diagnostic VALUES (1, NULL, 7)")
    connection.close()
    with pytest.raises(StoreCorrupt, match="cannot be migrated from version 1"):
        new_store().open()
    assert version(folder) == 1


def test_a_store_of_version_2_is_brought_forward_and_nothing_waits_in_it(new_store: NewStore, folder: Path) -> None:
    make_version_2(folder).close()
    for _ in range(2):
        store = new_store(clock=FixedClock(NOW_MS))
        state = store.open()
        busy, now = Execution("connected", "busy"), NOW_MS
        assert (state.runtime_id, state.head, dict(state.damaged)) == ("runtime-old", 3, {})
        request = CreateWorkerRequest()
        expected = Worker(
            FIRST,
            request,
            "running",
            busy,
            1,
            3,
            2,
            "running",
            retained_after=2,
            retained=1,
            created_at_ms=now,
            last_event_ms=now,
        )
        assert list(state.workers) == [expected]
        assert state.activities[FIRST].in_flight() == InFlight((TextBlock("Hello"),))
        assert (store.entries(1), store.state_at(1, 2).activity.in_flight()) == (
            ["hi"],
            InFlight((TextBlock("Hel"),)),
        )
        store.close()
        assert version(folder) == VERSION


def test_a_row_of_version_2_that_was_damaged_still_is(new_store: NewStore, folder: Path) -> None:
    connection = make_version_2(folder)
    connection.execute("UPDATE state SET transcript_len = 2")
    connection.close()
    assert list(new_store().open().damaged) == [FIRST]


def marked(sequence: int, unix_ms: int) -> tuple[Any, ...]:
    """A mark as version 2 wrote it: it has no body."""
    *key, _, checksum = packed("mark", (sequence, unix_ms), b"")
    return *key, checksum


VERSION_3 = f"""
{VERSION_2}
ALTER TABLE state ADD COLUMN waiting BLOB NOT NULL DEFAULT x'';
PRAGMA user_version = 3;
"""


def make_version_3(folder: Path, marks: dict[int, int]) -> apsw.Connection:
    """Make a store in which the first Worker has the events 1 to 8, the second was trimmed, two have said nothing.

    The Runtime remembers when it created the third.
    """
    folder.mkdir(mode=0o700)
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.pragma("journal_mode", "WAL")
    connection.execute(VERSION_3)
    idle = body({"backend": "connected", "run_state": "idle"})
    numbers = {"head": 10, "worker_number": 4, "remark_number": 0, "runtime_event_id": 1, "event_bytes": 1_000}
    created = zlib.crc32(
        b"worker_created", zlib.crc32(struct.pack("<4q", 1, 3, -1, 5_000), zlib.crc32(b"runtime_event"))
    )
    tables: dict[str, list[tuple[Any, ...]]] = {
        "meta": [
            named("meta", "runtime_id", "runtime-old"),
            *(named("meta", key, str(number)) for key, number in numbers.items()),
        ],
        "worker": [packed("worker", (number,), b"{}") for number in (1, 2, 3, 4)],
        "state": [
            (*packed("state", (1, 0, 1, 8, 0, 1, 8), idle), b""),
            (*packed("state", (2, 0, 0, 10, 0, 0, 0), idle), b""),
            (*packed("state", (3, 0, 0, 0, 0, 0, 0), idle), b""),
            (*packed("state", (4, 0, 0, 0, 0, 0, 0), idle), b""),
        ],
        "event": [packed("event", (n, 1, n - 1, 0, 1, 1), said("hi" if n == 1 else "x")) for n in range(1, 9)],
        "floor": [packed("floor", (2, 10, 0, 0), b"")],
        "entry": [packed("entry", (1, 1, 1, 0), b"hi")],
        "mark": [marked(sequence, time) for sequence, time in marks.items()],
        "runtime_event": [(1, "worker_created", 3, None, 5_000, created)],
    }
    for table, rows in tables.items():
        for row in rows:
            connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
    return connection


def event_times(store: Driven, number: int) -> list[int]:
    found = store.run(store.store.read_events(worker_id(number), 0, 2**63 - 1, WIDE))
    return [event.timestamp_ms for event in found]


def test_what_has_no_time_gets_that_of_its_nearest_mark_once_and_for_all(new_store: NewStore, folder: Path) -> None:
    make_version_3(folder, {2: 1_000, 6: 2_000}).close()
    for later in range(2):
        store = new_store(clock=FixedClock(NOW_MS + later))

        state = store.open()

        assert dict(state.damaged) == {}
        assert event_times(store, 1) == [1_000, 1_000, 1_000, 2_000, 2_000, 2_000, 2_000, 2_000]
        [entry] = store.run(store.store.read_entries(FIRST, 0, WIDE))
        assert entry.timestamp_ms == 1_000
        assert {worker.worker_id: (worker.created_at_ms, worker.last_event_ms) for worker in state.workers} == {
            FIRST: (1_000, 2_000),
            SECOND: (2_000, 2_000),
            THIRD: (5_000, 5_000),
            FOURTH: (NOW_MS, NOW_MS),
        }
        assert store.state_at(2, 10).timestamp_ms == 2_000
        store.close()


def test_what_has_no_time_gets_that_of_the_migration_where_there_is_no_mark(
    new_store: NewStore, folder: Path
) -> None:
    make_version_3(folder, {}).close()
    store = new_store(clock=FixedClock(NOW_MS))

    state = store.open()

    assert event_times(store, 1) == [NOW_MS] * 8
    assert [worker.created_at_ms for worker in state.workers] == [NOW_MS, NOW_MS, 5_000, NOW_MS]


@pytest.mark.parametrize(
    ("sql", "damaged"),
    [
        ("UPDATE worker SET request = x'7b207d' WHERE number = 3", [THIRD]),
        ("UPDATE state SET waiting = x'5b5d' WHERE worker = 4", [FOURTH]),
        ("UPDATE floor SET transcript_len = 1", [SECOND]),
        ("UPDATE entry SET role = 2", []),
        ("UPDATE event SET since = 7 WHERE sequence = 1", []),
    ],
)
def test_a_row_of_version_3_that_was_damaged_still_is(
    new_store: NewStore, folder: Path, sql: str, damaged: list[str]
) -> None:
    connection = make_version_3(folder, {2: 1_000})
    connection.execute(sql)
    connection.close()
    store = new_store()

    assert list(store.open().damaged) == damaged
    assert len(store.check().findings) == 1


def write_whatever_its_type(folder: Path, sql: str) -> None:
    """Write to tables as damage does: whatever the types of their columns are."""
    path = str(folder / "runtime.sqlite3")
    for statement in (
        "UPDATE sqlite_schema SET sql = replace(replace(sql, ') STRICT', ')'), ' NOT NULL', '') WHERE type = 'table'",
        sql,
        "UPDATE sqlite_schema SET sql = (SELECT kept.sql FROM kept WHERE kept.name = sqlite_schema.name)",
    ):
        connection = apsw.Connection(path)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        connection.pragma("writable_schema", "ON")
        connection.execute("CREATE TABLE IF NOT EXISTS kept (name, sql)")
        if not connection.execute("SELECT 1 FROM kept").get:
            connection.execute("INSERT INTO kept SELECT name, sql FROM sqlite_schema")
        connection.execute(statement)
        connection.close()
    connection = apsw.Connection(path)
    connection.execute("DROP TABLE kept")
    connection.close()


@pytest.mark.parametrize("earlier", [2, 3])
@pytest.mark.parametrize(
    ("sql", "damaged"),
    [
        ("UPDATE event SET since = 'odd' WHERE sequence = 3", []),
        ("UPDATE event SET worker = NULL WHERE sequence = 3", [FIRST]),
        ("UPDATE event SET payload = NULL WHERE sequence = 3", []),
        ("UPDATE event SET checksum = x'00' WHERE sequence = 3", []),
        ("UPDATE entry SET content = 7", []),
        ("UPDATE entry SET worker = 'odd', sequence = NULL", [FIRST]),
        ("UPDATE worker SET request = 0.5 WHERE number = 1", [FIRST]),
        ("UPDATE state SET last_sequence = 'odd' WHERE worker = 1", [FIRST]),
        ("UPDATE state SET execution = NULL WHERE worker = 1", [FIRST]),
        ("UPDATE floor SET sequence = x'6f6464'", [FIRST]),
        ("DELETE FROM worker WHERE number = 1", [FIRST]),
    ],
)
def test_a_cell_of_another_type_costs_its_row_and_not_the_store(
    new_store: NewStore, folder: Path, earlier: int, sql: str, damaged: list[str]
) -> None:
    (make_version_3(folder, {2: 1_000}) if earlier == 3 else make_version_2(folder)).close()
    owner = SECOND if earlier == 3 and "floor" in sql else FIRST
    write_whatever_its_type(folder, sql)
    store = new_store(clock=FixedClock(NOW_MS))

    state = store.open()

    assert list(state.damaged) == [owner] * len(damaged)
    assert version(folder) == VERSION
    assert store.check().findings


def test_a_mark_or_a_runtime_event_of_another_type_tells_no_time(new_store: NewStore, folder: Path) -> None:
    make_version_3(folder, {2: 1_000, 6: 2_000}).close()
    write_whatever_its_type(
        folder, "UPDATE mark SET unix_ms = 'odd' WHERE sequence = 6; UPDATE runtime_event SET unix_ms = 'odd'"
    )
    store = new_store(clock=FixedClock(NOW_MS))

    state = store.open()

    assert event_times(store, 1) == [1_000] * 8
    assert [worker.created_at_ms for worker in state.workers] == [1_000, 1_000, NOW_MS, NOW_MS]


@pytest.mark.parametrize(
    ("sql", "damaged"),
    [
        ("UPDATE event SET since = NULL WHERE sequence = 3", []),
        ("UPDATE entry SET content = 7 WHERE worker = 2", []),
        ("UPDATE state SET activity = NULL WHERE worker = 2", [SECOND]),
    ],
)
def test_a_cell_of_version_1_of_another_type_costs_its_row_and_not_the_store(
    new_store: NewStore, folder: Path, sql: str, damaged: list[str]
) -> None:
    make_version_1(folder).close()
    write_whatever_its_type(folder, sql)
    store = new_store()

    assert list(store.open().damaged) == damaged
    assert len(store.check().findings) == 1


def test_the_log_tells_of_the_versions_and_the_rows_before_and_after(
    new_store: NewStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_version_3(folder, {}).close()
    with caplog.at_level("INFO", "runtimed.store.sqlite.schema"):
        for _ in range(2):
            store = new_store()
            store.open()
            store.close()

    assert caplog.messages == [
        "migrating the store: earlier versions of runtimed cannot open it any more",
        "migrated the store",
    ]
    for record in caplog.records:
        assert (vars(record)["from_version"], vars(record)["to_version"]) == (3, VERSION)
        assert (vars(record)["workers"], vars(record)["events"], vars(record)["entries"]) == (4, 8, 1)


def test_a_store_of_version_4_keeps_its_data_and_takes_keys_and_attachments(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open("runtime-old")
    store.commit_at_once(said(1, "before"))
    store.close()
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute("DROP TABLE attachment; DROP TABLE idempotency; PRAGMA user_version = 4")
    connection.close()
    record = IdempotencyRecord(1, b"s" * 32, b"b" * 32, FIRST, NOW_MS)

    store = new_store(clock=FixedClock(NOW_MS))
    state = store.open()
    store.commit_at_once(Change(idempotency=[record]))
    store.close()

    assert (state.runtime_id, state.head, dict(state.damaged), state.idempotency) == ("runtime-old", 1, {}, [])
    assert [worker.last_event_ms for worker in state.workers] == [0]
    assert version(folder) == VERSION
    again = new_store()
    assert list(again.open().idempotency) == [record]
    assert again.entries(1) == ["before"]
    assert again.check().findings == ()


def test_a_store_of_version_5_keeps_its_data_and_takes_tokens(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open("runtime-old")
    store.commit_at_once(said(1, "before"))
    store.close()
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute("DROP TABLE token; PRAGMA user_version = 5")
    connection.close()
    record = TokenRecord(Token("ci", "observer", NOW_MS), b"d" * 32)

    store = new_store()
    state = store.open()
    store.commit_at_once(Change(token=record))
    store.close()

    assert (state.runtime_id, state.head, dict(state.damaged), state.tokens) == ("runtime-old", 1, {}, [])
    assert version(folder) == VERSION
    again = new_store()
    assert list(again.open().tokens) == [record]
    assert again.entries(1) == ["before"]
    assert again.check().findings == ()


def test_a_store_of_version_5_keeps_its_data_and_takes_tenants(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open("runtime-old")
    created = RuntimeEvent(1, "worker_created", NOW_MS, FIRST)
    store.commit_at_once(attrs.evolve(said(1, "before"), runtime_events=[created]))
    store.commit_at_once(said(2, "damaged"))
    store.close()
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute("DROP INDEX worker_tenant; DROP INDEX runtime_event_tenant")
    for table in ("worker", "runtime_event"):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN tenant")
    connection.execute("ALTER TABLE runtime_event DROP COLUMN actor")
    connection.execute("UPDATE worker SET request = x'00' WHERE number = 2; PRAGMA user_version = 5")
    connection.close()

    store = new_store(clock=FixedClock(NOW_MS))
    state = store.open()

    assert (state.runtime_id, [(worker.worker_id, worker.tenant) for worker in state.workers]) == (
        "runtime-old",
        [(FIRST, None)],
    )
    assert list(state.damaged) == [SECOND]
    assert store.run(store.store.read_runtime_events(0, WIDE)) == [created]
    fresh = Worker(THIRD, CreateWorkerRequest(), "running", Execution("connected", "idle"), tenant="acme")
    recorded = RuntimeEvent(2, "worker_created", NOW_MS, THIRD, tenant="acme", by="token:ci")
    store.commit_at_once(Change(worker=fresh, runtime_events=[recorded]))
    store.close()
    assert version(folder) == VERSION
    again = new_store()
    assert [(worker.worker_id, worker.tenant) for worker in again.open().workers] == [(FIRST, None), (THIRD, "acme")]
    assert again.run(again.store.read_runtime_events(0, WIDE, "acme")) == [recorded]


def test_a_cell_of_the_wrong_type_does_not_keep_a_store_of_version_5_from_its_tenants(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    store.commit_at_once(said(1, "sound"))
    store.commit_at_once(said(2, "damaged"))
    store.close()
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute("DROP INDEX worker_tenant; ALTER TABLE worker DROP COLUMN tenant")
    connection.execute("PRAGMA user_version = 5")
    connection.close()
    write_whatever_its_type(folder, "UPDATE worker SET request = 7 WHERE number = 2")

    state = new_store().open()

    assert ([worker.worker_id for worker in state.workers], list(state.damaged)) == ([FIRST], [SECOND])
    assert version(folder) == VERSION


OPENER = """
import asyncio, resource, signal, sys
from pathlib import Path
from runtimed.store.sqlite import SqliteStore

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
asyncio.run(SqliteStore(Path(sys.argv[1])).open(None))
"""


def test_a_kill_while_a_store_is_brought_forward_leaves_version_1_and_the_next_start_finishes(
    new_store: NewStore, folder: Path
) -> None:
    connection = make_version_1(folder)
    text = "x" * 500
    with connection:
        connection.executemany(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
            (summed("event", (number, 2, 0, 1, "idle"), streamed(text)) for number in range(10, 40_010)),
        )
    connection.close()
    opener = subprocess.run([sys.executable, "-c", OPENER, folder], check=False)
    assert opener.returncode == -signal.SIGXFSZ
    assert version(folder) == 1
    store = new_store()
    store.open()
    assert store.events(1) == [1, 3, 5]
    assert store.events(2)[:3] == [2, 4, 10]
    assert version(folder) == VERSION


def test_every_status_activity_and_role_has_a_number() -> None:
    assert get_args(ActivityStatus) == ACTIVITIES
    assert get_args(WorkerStatus) == STATUSES
    assert get_args(Role) == ROLES
