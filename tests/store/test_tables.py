"""A noun that is declared by a descriptor alone, in both stores."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import attrs
import pytest

from runtimed.core.paging import PageSize
from runtimed.core.state.change import Change, Forgotten
from runtimed.errors import SerializeFailed, StoreCorrupt
from runtimed.model.value import value
from runtimed.store import records
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from runtimed.store.sqlite.check import Check
from runtimed.store.sqlite.inspection import inspect
from runtimed.store.tables import CHECKSUM, Expiry, Table, Tables, blob, integer, text

AnyStore = MemoryStore | SqliteStore
ALL = PageSize(items=100, max_bytes=1_000_000)

DISK = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
CREATE TABLE worker (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL, checksum INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL DEFAULT 0, tenant TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX worker_tenant ON worker (tenant) WHERE tenant <> '';
CREATE TABLE state (
    worker INTEGER PRIMARY KEY, status INTEGER NOT NULL, transcript_len INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL, since INTEGER NOT NULL, activity INTEGER NOT NULL,
    retained INTEGER NOT NULL, execution BLOB NOT NULL, checksum INTEGER NOT NULL,
    waiting BLOB NOT NULL DEFAULT x'', last_event_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY, worker INTEGER NOT NULL, previous INTEGER NOT NULL, since INTEGER NOT NULL,
    transcript_len INTEGER NOT NULL, activity INTEGER NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX event_worker ON event (worker);
CREATE TABLE floor (
    worker INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, transcript_len INTEGER NOT NULL,
    activity INTEGER NOT NULL, in_flight BLOB NOT NULL, checksum INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX floor_sequence ON floor (sequence);
CREATE TABLE entry (
    event INTEGER PRIMARY KEY, worker INTEGER NOT NULL, sequence INTEGER NOT NULL,
    role INTEGER NOT NULL, content BLOB NOT NULL, checksum INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX entry_worker ON entry (worker, sequence);
CREATE TABLE attachment (
    event INTEGER PRIMARY KEY, worker INTEGER NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX attachment_worker ON attachment (worker);
CREATE TABLE bundle (id TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT;
CREATE TABLE remark (
    number INTEGER PRIMARY KEY, worker INTEGER, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE runtime_event (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, worker INTEGER, event INTEGER, unix_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL, tenant TEXT NOT NULL DEFAULT '', actor TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX runtime_event_tenant ON runtime_event (tenant) WHERE tenant <> '';
CREATE TABLE mark (sequence INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, checksum INTEGER NOT NULL) STRICT;
CREATE TABLE deleted (worker INTEGER PRIMARY KEY, checksum INTEGER NOT NULL) STRICT;
CREATE TABLE idempotency (
    number INTEGER PRIMARY KEY, worker INTEGER NOT NULL, unix_ms INTEGER NOT NULL, entry INTEGER NOT NULL,
    event INTEGER NOT NULL, queued INTEGER NOT NULL, scope BLOB NOT NULL, body BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE token (
    name TEXT PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE gap (
    head INTEGER PRIMARY KEY, raised_to INTEGER NOT NULL, unix_ms INTEGER NOT NULL, checksum INTEGER NOT NULL
) STRICT;
"""
"""The tables of version 6 as its first stores have them."""


@value
class Receipt:
    """A request that was answered, so that a repeated one gets the same answer."""

    number: int
    key: str
    request_hash: bytes
    answer: bytes
    created_at_ms: int


@value
class ChangeWithReceipts(Change):
    """A Change with one more noun."""

    receipts: tuple[Receipt, ...] = ()


RECEIPTS: Table[Receipt, Receipt] = Table(
    "receipt",
    (
        integer("number"),
        text("key"),
        blob("request_hash"),
        blob("answer"),
        CHECKSUM,
        integer("created_at_ms"),
    ),
    encode=attrs.astuple,
    decode=Receipt,
    describe=lambda row: f"the receipt {row[1]!r}",
    part="receipts",
    indexes=("CREATE UNIQUE INDEX receipt_key ON receipt (key)",),
    expiry=Expiry(lambda gone: gone.marks),
)
FIRST = Receipt(1, "deploy-1", b"\x01" * 32, b'{"ok":1}', 1_700_000_000_000)
SECOND = Receipt(2, "deploy-2", b"\x02" * 32, b'{"ok":2}', 1_700_000_001_000)


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the noun, which is all that there is of it."""
    monkeypatch.setattr(records, "TABLES", Tables(*records.TABLES, RECEIPTS))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStore]:
    made: dict[str, Callable[[], AnyStore]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(tmp_path / "store"),
    }
    found = made[request.param]()
    await found.open(None)
    yield found
    await found.close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The folder of a closed durable store with two keys."""

    async def fill() -> None:
        found = SqliteStore(tmp_path / "store")
        await found.open(None)
        await found.commit(ChangeWithReceipts(receipts=(FIRST, SECOND)))
        await found.close()

    asyncio.run(fill())
    return tmp_path / "store"


def on_disk(folder: Path) -> apsw.Connection:
    return apsw.Connection(str(folder / "runtime.sqlite3"))


def counted(folder: Path) -> int:
    """How many rows of the noun a check reads."""
    check = Check()
    connection = on_disk(folder)
    for step in check.rows():
        step(connection)
    connection.close()
    return check.counts["receipt"]


async def test_a_declared_noun_is_written_by_a_change_and_read_by_key(store: AnyStore) -> None:
    await store.commit(ChangeWithReceipts(receipts=(FIRST,)))
    await store.commit(ChangeWithReceipts(receipts=(SECOND,)))

    assert await store.read_records(RECEIPTS, 0, ALL) == [FIRST, SECOND]
    assert await store.read_records(RECEIPTS, 1, ALL) == [SECOND]
    assert await store.read_records(RECEIPTS, 0, PageSize(items=1, max_bytes=1)) == [FIRST]


async def test_a_declared_noun_is_forgotten_as_its_descriptor_says(store: AnyStore) -> None:
    await store.commit(ChangeWithReceipts(receipts=(FIRST, SECOND)))
    await store.commit(ChangeWithReceipts(forgotten=Forgotten(marks=1)))

    assert await store.read_records(RECEIPTS, 0, ALL) == [SECOND]


async def test_text_of_a_declared_noun_that_is_not_unicode_is_refused_and_nothing_is_stored(store: AnyStore) -> None:
    with pytest.raises(SerializeFailed):
        store.commit(ChangeWithReceipts(receipts=(attrs.evolve(FIRST, key="\ud800"),)))

    assert await store.read_records(RECEIPTS, 0, ALL) == []
    await store.commit(ChangeWithReceipts(receipts=(SECOND,)))


def kept(folder: Path) -> list[Receipt]:
    """The keys that a store gives back when it is opened again."""

    async def read() -> list[Receipt]:
        store = SqliteStore(folder)
        await store.open(None)
        try:
            return list(await store.read_records(RECEIPTS, 0, ALL))
        finally:
            await store.close()

    return asyncio.run(read())


def change_row(folder: Path, sql: str) -> None:
    connection = on_disk(folder)
    connection.execute(f"UPDATE receipt SET {sql}")
    connection.close()


def test_a_declared_noun_outlives_the_store_object(filled: Path) -> None:
    assert kept(filled) == [FIRST, SECOND]


def test_a_declared_noun_is_counted_and_checked(filled: Path) -> None:
    assert counted(filled) == 2
    assert inspect(filled).check.findings == ()


@pytest.mark.parametrize(
    "flip",
    [
        "key = 'eeploy-2'",
        "request_hash = CAST(x'03' || substr(request_hash, 2) AS BLOB)",
        "answer = CAST('{\"ok\":3}' AS BLOB)",
        "created_at_ms = created_at_ms + 1",
        "checksum = checksum - 1",
    ],
)
def test_a_flipped_bit_in_a_declared_noun_is_found(filled: Path, flip: str) -> None:
    change_row(filled, f"{flip} WHERE number = 2")

    [finding] = inspect(filled).check.findings
    assert finding.problem.startswith("the receipt ")
    assert finding.problem.endswith(" is damaged: its content is not what was stored")


def test_a_damaged_row_of_a_declared_noun_is_logged_and_left_out(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change_row(filled, "created_at_ms = 7 WHERE number = 1")

    assert kept(filled) == [SECOND]
    assert [one for one in caplog.records if "the receipt 'deploy-1' is damaged" in vars(one)["reason"]]


def test_null_and_zero_have_different_checksums() -> None:
    of_null, of_zero = ((1, "runtime_started", worker, None, 5, "", "") for worker in (None, 0))
    assert records.RUNTIME_EVENTS.checksum(of_null) != records.RUNTIME_EVENTS.checksum(of_zero)


def test_a_row_with_a_value_of_a_wrong_type_is_damaged() -> None:
    with pytest.raises(StoreCorrupt, match="the mark 1 is damaged"):
        records.MARKS.read((1, "late", 5))


def test_the_tables_of_a_new_store_are_those_of_version_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    connection = apsw.Connection(":memory:")
    for table in records.TABLES:
        connection.execute(table.create)

    made = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
    expected = [" ".join(sql.split()).replace("( ", "(").replace(" )", ")") for sql in DISK.split(";")]
    assert made == [sql for sql in expected if sql]
