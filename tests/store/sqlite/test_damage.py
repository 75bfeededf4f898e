"""Damage on the disk: what is hit, what is told of it, and that nobody else suffers."""

import random
import shutil
import stat
from pathlib import Path
from typing import Any

import apsw
import pytest

from runtimed.core.paging import PageSize
from runtimed.core.state.change import Change, Mark, NumberedDiagnostic, StoredBundle, TokenRecord
from runtimed.errors import StoreCorrupt
from runtimed.model.bundle import BundleMetadata, ConfigBundle, Provenance
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import worker_id
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.token import Token
from tests.store.conftest import Driven, Inputs, NewStore

FIRST, SECOND = worker_id(1), worker_id(2)
MAX_SEQUENCE = 2**63 - 1
WIDE = PageSize(items=10_000, max_bytes=100_000_000)

HEADER_BYTES = 32
PAGE_BYTES = 4096
FRAME_BYTES = 24 + PAGE_BYTES
LARGE = 20_000
"""A content of this length has pages of its own, which no later transaction writes again."""


def run_sql(folder: Path, sql: str) -> None:
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute(sql)
    connection.close()


def flip(log: Path, place: int, bit: int = 0) -> None:
    body = bytearray(log.read_bytes())
    body[place] ^= 1 << bit
    log.write_bytes(body)


def find(log: Path, marker: str) -> int:
    place = log.read_bytes().find(marker.encode() * 50)
    assert place >= 0
    return place + 100


def frames(log: Path) -> int:
    return (log.stat().st_size - HEADER_BYTES) // FRAME_BYTES


@pytest.fixture
def crashed(new_store: NewStore, folder: Path, said: Inputs) -> Path:
    """What `kill -9` leaves behind twenty inputs to four Workers, each in a transaction of its own."""
    store = new_store()
    store.open("runtime-mine")
    for number in range(20):
        store.commit(said(number % 4 + 1, f"<{number}>" * (LARGE // 4)))
    copy = folder.with_name("crashed")
    copy.mkdir()
    for name in ("runtime.sqlite3", "runtime.sqlite3-wal"):
        shutil.copyfile(folder / name, copy / name)
    return copy


def transcripts(store: Driven) -> dict[int, list[str]]:
    """Of each Worker what its inputs began with; a Worker that cannot be read is left out."""
    found = {}
    for number in range(1, 5):
        try:
            found[number] = [content[: content.index(">") + 1] for content in store.entries(number)]
        except StoreCorrupt:
            continue
    return found


def acknowledged(upto: int = 20) -> dict[int, list[str]]:
    return {worker: [f"<{n}>" for n in range(upto) if n % 4 + 1 == worker] for worker in range(1, 5)}


def test_a_flipped_bit_in_the_log_hits_one_worker_and_nothing_else_is_lost(
    crashed: Path, new_store: NewStore, said: Inputs
) -> None:
    flip(crashed / "runtime.sqlite3-wal", find(crashed / "runtime.sqlite3-wal", "<5>"))
    store = new_store(crashed)
    state = store.open()
    assert state.head == 20
    assert state.damaged.keys() == {SECOND}
    assert "is damaged" in state.damaged[SECOND]
    whole = acknowledged()
    assert {n: found for n, found in transcripts(store).items() if n != 2} == {n: whole[n] for n in (1, 3, 4)}
    store.commit(said(1, "goes on"))


def test_the_damaged_log_is_kept_private_and_each_start_knows_who_is_hit(crashed: Path, new_store: NewStore) -> None:
    log, kept = crashed / "runtime.sqlite3-wal", crashed / "runtime.sqlite3-wal.damaged"
    flip(log, find(log, "<5>"))
    damaged = log.read_bytes()
    for _ in range(2):
        store = new_store(crashed)
        assert store.open().damaged.keys() == {SECOND}
        assert kept.read_bytes() == damaged
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        store.close()
    assert sorted(path.name for path in crashed.glob("*-wal*")) == [log.name, kept.name]


def test_the_damaged_log_goes_once_those_that_it_hit_are_gone(crashed: Path, new_store: NewStore) -> None:
    log, kept = crashed / "runtime.sqlite3-wal", crashed / "runtime.sqlite3-wal.damaged"
    flip(log, find(log, "<5>"))
    store = new_store(crashed)
    store.open()
    store.commit(Change(deleted=SECOND))
    while not store.run(store.store.purge(SECOND)):
        pass
    store.close()
    assert kept.exists()
    store = new_store(crashed)
    assert store.open().damaged == {}
    assert not kept.exists()


def test_where_the_structure_of_the_database_is_damaged_the_worker_is_named_too(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    for number in range(20):
        store.commit(said(1, f"<{number}>" * (LARGE // 4)))
    store.close()
    run_sql(folder, "pragma wal_checkpoint(truncate)")
    database = folder / "runtime.sqlite3"
    body = bytearray(database.read_bytes())
    for page in range(0, len(body), PAGE_BYTES):
        if b"<5>" * 1000 in body[page : page + PAGE_BYTES]:
            body[page : page + 4] = b"\x7f\xff\xff\xff"  # a long row is a chain of pages: these lead nowhere
    database.write_bytes(body)
    store = new_store()
    store.open()
    with pytest.raises(StoreCorrupt, match=FIRST):
        store.entries(1)


def test_damage_that_a_later_transaction_wrote_over_has_hit_nothing(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    for number in range(10):
        store.commit(said(1, f"<{number}>" * 60))
    copy = folder.with_name("crashed")
    copy.mkdir()
    for name in ("runtime.sqlite3", "runtime.sqlite3-wal"):
        shutil.copyfile(folder / name, copy / name)
    flip(copy / "runtime.sqlite3-wal", find(copy / "runtime.sqlite3-wal", "<3>"))
    mended = new_store(copy)
    assert mended.open().damaged == {}
    assert len(mended.entries(1)) == len(mended.events(1)) == 10
    assert not (copy / "runtime.sqlite3-wal.damaged").exists()


@pytest.mark.parametrize("place", [0, 3, 7, 10, 13, 17, 22, 25, 31])
def test_a_damaged_header_of_the_log_loses_nothing(crashed: Path, new_store: NewStore, place: int) -> None:
    flip(crashed / "runtime.sqlite3-wal", place, 3)
    store = new_store(crashed)
    assert store.open().damaged == {}
    assert transcripts(store) == acknowledged()


@pytest.mark.parametrize("place", [8, 13, 16, 23], ids=["salt", "salt", "checksum", "checksum"])
def test_a_damaged_salt_or_checksum_of_a_frame_loses_nothing(crashed: Path, new_store: NewStore, place: int) -> None:
    flip(crashed / "runtime.sqlite3-wal", HEADER_BYTES + 9 * FRAME_BYTES + place)
    store = new_store(crashed)
    assert store.open().damaged == {}
    assert transcripts(store) == acknowledged()


def test_a_log_that_is_no_database_any_more_is_refused_and_left_as_it_is(crashed: Path, new_store: NewStore) -> None:
    log = crashed / "runtime.sqlite3-wal"
    flip(log, HEADER_BYTES + 9 * FRAME_BYTES, 6)  # the frame's page number
    before = log.read_bytes()
    with pytest.raises(StoreCorrupt, match=r"write-ahead log is damaged .* restore the store from a copy, or lose"):
        new_store(crashed).open()
    assert log.read_bytes() == before
    log.unlink()
    store = new_store(crashed)
    store.open()
    assert transcripts(store)[1] == acknowledged()[1][: len(transcripts(store)[1])]


def test_whatever_bit_is_flipped_nothing_that_is_served_is_false(crashed: Path, new_store: NewStore) -> None:
    """Apart from the newest transaction, which cannot be told from one that a crash tore."""
    chance = random.Random(20)
    log = (crashed / "runtime.sqlite3-wal").read_bytes()
    database = (crashed / "runtime.sqlite3").read_bytes()
    refused = 0
    for _ in range(25):
        (crashed / "runtime.sqlite3").write_bytes(database)
        (crashed / "runtime.sqlite3-wal").write_bytes(log)
        (crashed / "runtime.sqlite3-wal.damaged").unlink(missing_ok=True)
        flip(crashed / "runtime.sqlite3-wal", chance.randrange(len(log)), chance.randrange(8))
        store = new_store(crashed)
        try:
            state = store.open()
        except StoreCorrupt:
            refused += 1
            continue
        served = {n: found for n, found in transcripts(store).items() if worker_id(n) not in state.damaged}
        assert len(served) >= 3
        assert any(
            served == {worker: whole[worker] for worker in served} for whole in (acknowledged(), acknowledged(19))
        )
        store.close()
    assert refused < 4


@pytest.mark.parametrize("torn", [1, 2, 3])
def test_a_newest_transaction_whose_pages_did_not_all_reach_the_disk_is_lost_alone(
    crashed: Path, new_store: NewStore, torn: int
) -> None:
    log = crashed / "runtime.sqlite3-wal"
    body = bytearray(log.read_bytes())
    place = HEADER_BYTES + (frames(log) - 1 - torn) * FRAME_BYTES
    body[place : place + FRAME_BYTES] = bytes(FRAME_BYTES)
    log.write_bytes(body)
    store = new_store(crashed)
    state = store.open()
    assert (state.head, state.damaged) == (19, {})
    assert transcripts(store) == acknowledged(19)


def test_whichever_sectors_of_the_newest_transaction_reached_the_disk_the_others_are_whole(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    """In a log that was begun anew, so that what its sectors held before is of an earlier use of it."""
    store = new_store()
    store.open()
    for number in range(100):
        store.commit(said(number % 4 + 1, "x" * LARGE))  # more than is left in the log without a checkpoint
    store.commit(said(1, "newest but one"))
    log = folder / "runtime.sqlite3-wal"
    before = log.read_bytes()
    store.commit(said(2, "newest" * 1_000))
    after = log.read_bytes()
    assert before[16:24] == after[16:24] != before[-FRAME_BYTES + 8 : -FRAME_BYTES + 16]
    copy = folder.with_name("crashed")
    copy.mkdir()
    chance = random.Random(21)
    outcomes = set()
    for _ in range(25):
        shutil.copyfile(folder / "runtime.sqlite3", copy / "runtime.sqlite3")
        (copy / "runtime.sqlite3-wal").write_bytes(_mixed(before, after, chance))
        torn = new_store(copy)
        state = torn.open()
        outcomes.add(state.head)
        assert state.damaged == {}
        assert [len(torn.entries(number)) for number in (1, 3, 4)] == [26, 25, 25]
        assert torn.entries(1)[-1] == "newest but one"
        torn.close()
    assert outcomes <= {101, 102}
    assert 101 in outcomes


def _mixed(before: bytes, after: bytes, chance: random.Random) -> bytes:
    """Each sector of 512 bytes as it was before a write, or after."""
    sectors = range(0, len(after), 512)
    return b"".join((before if chance.random() < 0.3 else after)[place : place + 512] for place in sectors)


def test_a_torn_transaction_behind_a_damaged_one_is_lost_alone(crashed: Path, new_store: NewStore) -> None:
    log = crashed / "runtime.sqlite3-wal"
    flip(log, find(log, "<5>"))
    log.write_bytes(log.read_bytes()[:-5_000])
    store = new_store(crashed)
    state = store.open()
    assert (state.head, set(state.damaged)) == (19, {SECOND})
    assert {n: found for n, found in transcripts(store).items() if n != 2} == {
        n: found for n, found in acknowledged(19).items() if n != 2
    }


def test_a_log_that_was_not_synced_with_each_commit_is_read_as_far_as_it_is_whole(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store(sync="normal")
    store.open()
    for number in range(20):
        store.commit(said(number % 4 + 1, f"<{number}>" * (LARGE // 4)))
    copy = folder.with_name("crashed")
    copy.mkdir()
    for name in ("runtime.sqlite3", "runtime.sqlite3-wal"):
        shutil.copyfile(folder / name, copy / name)
    flip(copy / "runtime.sqlite3-wal", find(copy / "runtime.sqlite3-wal", "<5>"))
    again = new_store(copy)
    state = again.open()
    assert (state.head, state.damaged) == (5, {})
    assert transcripts(again) == acknowledged(5)


@pytest.fixture
def stored(new_store: NewStore, folder: Path, said: Inputs) -> Path:
    """A closed store with three inputs to each of two Workers, a bundle, a remark, a mark and a token."""
    store = new_store()
    store.open()
    for text in ("one", "two", "three"):
        store.commit(said(1, text))
        store.commit(said(2, text))
    metadata = BundleMetadata("bundle-1", "d", "1", "w", "now", Provenance("test"))
    store.commit(
        Change(
            bundle=StoredBundle(ConfigBundle(metadata)),
            diagnostics=[NumberedDiagnostic(1, Diagnostic("c", "info", "m"))],
            mark=Mark(6, 1_000),
            token=TokenRecord(Token("ci", "observer", 1), b"d" * 32),
        )
    )
    store.close()
    return folder


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE worker SET request = x'7b7d20' WHERE number = 1", "the row of worker-00000001 is damaged"),
        ("UPDATE state SET status = 1 WHERE worker = 1", "the row of worker-00000001 is damaged"),
        ("DELETE FROM state WHERE worker = 1", "the row of worker-00000001 is damaged"),
        ("DELETE FROM worker WHERE number = 1", "its row is missing"),
        ("DELETE FROM worker WHERE number = 1; DELETE FROM state WHERE worker = 1", "its row is missing"),
        ("INSERT INTO floor VALUES (1, 0, 0, 0, x'', 7, 0)", "the floor of worker-00000001 is damaged"),
        ("DELETE FROM entry WHERE worker = 1 AND sequence = 1", "the entry 1 is missing"),
        ("DELETE FROM entry WHERE worker = 1 AND sequence = 2", "the entry 2 is missing"),
        ("DELETE FROM entry WHERE worker = 1 AND sequence = 3", "the entry 3 is missing"),
        ("DELETE FROM entry WHERE worker = 1", "the entry 1 is missing"),
        ("INSERT INTO entry VALUES (99, 1, 4, 0, x'', 0, 0)", "there are 4 entries, not 3"),
        ("DELETE FROM event WHERE sequence = 1", "the event wo_0000000000000001 is missing"),
        ("DELETE FROM event WHERE sequence = 3", "the event wo_0000000000000003 is missing"),
        ("DELETE FROM event WHERE sequence = 5", "the event wo_0000000000000005 is missing"),
        ("DELETE FROM event WHERE worker = 1", "the event wo_0000000000000005 is missing"),
    ],
)
def test_damage_to_one_worker_is_found_at_the_start_and_hits_that_worker_alone(
    stored: Path, new_store: NewStore, said: Inputs, sql: str, problem: str
) -> None:
    run_sql(stored, sql)
    store = new_store()
    state = store.open()
    assert state.damaged == {FIRST: problem}
    assert SECOND in [worker.worker_id for worker in state.workers]
    assert store.entries(2) == ["one", "two", "three"]
    assert store.events(2) == [2, 4, 6]
    store.commit(said(2, "four"))


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        ("bundle", "bundles"),
        ("remark", "diagnostics"),
        ("mark", "marks"),
        ("deleted", "deleted"),
        ("token", "tokens"),
    ],
)
def test_a_damaged_row_that_belongs_to_no_worker_is_left_out_and_logged(
    stored: Path, new_store: NewStore, caplog: pytest.LogCaptureFixture, table: str, kept: str
) -> None:
    run_sql(stored, f"INSERT INTO deleted VALUES (7, 0); UPDATE {table} SET checksum = checksum + 1")
    store = new_store()
    state = store.open()
    assert not list(getattr(state, kept))
    assert state.damaged == {}
    assert [
        record
        for record in caplog.records
        if "left out" in record.getMessage() and "damaged" in vars(record)["reason"]
    ]


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE meta SET value = '9' WHERE key = 'head'", "the meta row 'head' is damaged"),
        ("DELETE FROM meta WHERE key = 'head'", "a meta row of the store is missing"),
    ],
)
def test_damage_to_what_the_runtime_is_stops_the_start(
    stored: Path, new_store: NewStore, sql: str, problem: str
) -> None:
    run_sql(stored, sql)
    with pytest.raises(StoreCorrupt, match=f"^{problem}$"):
        new_store().open()


def test_no_number_is_given_out_again_that_a_row_of_a_damaged_worker_has(stored: Path, new_store: NewStore) -> None:
    run_sql(stored, "DELETE FROM worker WHERE number = 2; DELETE FROM state WHERE worker = 2")
    assert new_store().open().worker_number == 2


def test_a_damaged_runtime_event_is_left_out_and_the_others_are_read(stored: Path, new_store: NewStore) -> None:
    store = new_store()
    store.open()
    store.commit(Change(runtime_events=[RuntimeEvent(n, "runtime_started", 1_000) for n in (1, 2, 3)]))
    store.close()
    run_sql(stored, "UPDATE runtime_event SET unix_ms = 7 WHERE id = 2")
    store = new_store()
    store.open()
    found = store.run(store.store.read_runtime_events(0, PageSize(10, 1_000)))
    assert [event.id for event in found] == [1, 3]
    page = store.run(store.store.read_runtime_events(1, PageSize(1, 1_000)))
    assert [event.id for event in page] == [3]


def test_a_worker_that_a_damaged_row_calls_deleted_is_not_served_as_an_empty_one(
    stored: Path, new_store: NewStore
) -> None:
    run_sql(stored, "INSERT INTO deleted VALUES (1, 0)")
    state = new_store().open()
    assert state.damaged.keys() == {FIRST}
    assert FIRST not in state.deleted


@pytest.mark.parametrize(
    "sql", ["UPDATE event SET checksum = checksum + 1 WHERE sequence = 4", "DELETE FROM event WHERE sequence = 4"]
)
def test_a_page_of_events_ends_in_front_of_what_is_damaged_or_missing(
    stored: Path, new_store: NewStore, sql: str
) -> None:
    run_sql(stored, sql)
    store = new_store()
    store.open()

    def of_second(after: int) -> list[int]:
        found: list[int] = store.events(2, after=after)
        return found

    def of_all(after: int) -> list[int]:
        return [event.sequence for event in store.run(store.store.read_all_events(after, MAX_SEQUENCE, WIDE))]

    assert (of_second(0), of_all(0)) == ([2], [1, 2, 3])
    for read, after in ((of_second, 2), (of_second, 3), (of_all, 3)):
        with pytest.raises(StoreCorrupt, match="the event wo_0000000000000004 of worker-00000002 is"):
            read(after)
    assert (of_second(4), of_all(4)) == ([6], [5, 6])


def test_a_tenant_reads_past_a_page_of_damaged_events_of_others(
    folder: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store()
    store.open()
    said.tenants = {1: "acme", 2: "other"}
    for number in (1, *[2] * 10, 1):
        store.commit(said(number, "x"))
    store.close()
    run_sql(folder, "UPDATE event SET checksum = checksum + 1 WHERE worker = 2")
    store = new_store()
    store.open()

    def of_tenant(tenant: str, after: int, items: int) -> tuple[list[int], int]:
        page = store.run(store.store.read_tenant_events(tenant, after, 12, PageSize(items, 100_000)))
        return [event.sequence for event in page.events], page.upto

    assert of_tenant("acme", 0, 5) == ([1, 12], 12)
    assert of_tenant("acme", 1, 1) == ([12], 12)
    with pytest.raises(StoreCorrupt, match="of worker-00000002 is damaged"):
        of_tenant("other", 0, 5)


def test_a_page_of_a_tenant_ends_in_front_of_its_own_damage(folder: Path, new_store: NewStore, said: Inputs) -> None:
    store = new_store()
    store.open()
    said.tenants = {1: "acme", 2: "other"}
    for number in (1, 2, 1, 2, 1):
        store.commit(said(number, "x"))
    store.close()
    run_sql(folder, "UPDATE event SET checksum = checksum + 1 WHERE sequence = 3")
    store = new_store()
    store.open()
    read = store.store.read_tenant_events

    page = store.run(read("acme", 0, 5, WIDE))

    assert ([event.sequence for event in page.events], page.upto) == ([1], 1)
    with pytest.raises(StoreCorrupt, match="the event wo_0000000000000003 of worker-00000001 is damaged"):
        store.run(read("acme", 1, 5, WIDE))
    assert store.run(read("acme", 3, 5, WIDE)).upto == 5


def test_an_index_that_the_damage_hit_is_made_anew(stored: Path, new_store: NewStore) -> None:
    database = stored / "runtime.sqlite3"
    connection = apsw.Connection(str(database))
    root: Any = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'event_worker'").get
    connection.close()
    page = (root - 1) * 4096
    cell = page + int.from_bytes(database.read_bytes()[page + 8 : page + 10], "big")
    flip(database, cell + 3, 1)  # the number of a Worker in the smallest key
    (stored / "runtime.sqlite3-wal.damaged").touch()
    store = new_store()
    assert store.open().damaged == {}
    assert store.events(1) == [1, 3, 5]
    assert not (stored / "runtime.sqlite3-wal.damaged").exists()
