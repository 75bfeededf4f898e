import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from runtimed import __version__
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change
from runtimed.errors import StoreCorrupt, StoreFull, StoreIo, StoreMissing, StoreUnsupported
from runtimed.model.identity import worker_id
from runtimed.store.sqlite.schema import VERSION
from runtimed.store.sqlite.writer import Writer
from tests.store.conftest import Inputs, NewStore

FIRST = worker_id(1)


def flip(file: Path, marker: bytes, *, last: bool = False) -> None:
    """Flip one bit where the marker stands in the file."""
    body = bytearray(file.read_bytes())
    place = body.rfind(marker) if last else body.find(marker)
    assert place >= 0
    body[place] ^= 1
    file.write_bytes(body)


def run_sql(folder: Path, sql: str) -> None:
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute(sql)
    connection.close()


def test_a_closed_store_is_one_file_without_a_log(new_store: NewStore, folder: Path, said: Inputs) -> None:
    store = new_store()
    store.open()
    store.commit(said(1, "hi"))
    store.close()
    logs = [path for path in folder.iterdir() if path.name.startswith("runtime.sqlite3-")]
    assert sum(path.stat().st_size for path in logs if path.name.endswith("-wal")) == 0


def test_a_flipped_bit_in_an_event_fails_the_reads_of_that_event_alone(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    for number in (1, 2):
        for text in ("one", "two"):
            store.commit(said(number, f"{text} of {number}"))
    store.close()
    flip(folder / "runtime.sqlite3", b'"content":"two of 1')
    store = new_store()
    store.open()
    assert store.events(1) == [1]
    with pytest.raises(StoreCorrupt, match=r"the event wo_0000000000000002 of worker-00000001 is damaged"):
        store.events(1, after=1)
    with pytest.raises(StoreCorrupt, match="the event wo_0000000000000002"):
        store.state_at(1, 2)
    assert store.events(1, upto=1) == [1]
    assert len(store.entries(1)) == 2
    assert len(store.events(2)) == 2
    store.commit(said(1, "goes on"))


def test_a_flipped_bit_in_an_entry_names_the_entry_and_its_worker(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    store.commit(said(1, "first"))
    store.commit(said(2, "first"))
    store.close()
    run_sql(folder, "UPDATE entry SET content = CAST('forged' AS BLOB) WHERE worker = 1")
    store = new_store()
    store.open()
    with pytest.raises(StoreCorrupt, match=r"the entry 1 of worker-00000001 is damaged"):
        store.entries(1)
    with pytest.raises(StoreCorrupt, match=r"the entry 1 of worker-00000001 is damaged"):
        store.newest_entries(1)
    assert len(store.entries(2)) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE event SET worker = 1, sequence = 9 WHERE worker = 2",
        "UPDATE event SET since = 0 WHERE worker = 1",
        "UPDATE event SET transcript_len = 7 WHERE worker = 1",
    ],
)
def test_a_row_that_says_something_else_beside_its_body_is_found(
    new_store: NewStore, folder: Path, said: Inputs, sql: str
) -> None:
    store = new_store()
    store.open()
    store.commit(said(1, "first"))
    store.commit(said(2, "second"))
    store.close()
    run_sql(folder, sql)
    store = new_store()
    store.open()
    with pytest.raises(StoreCorrupt):
        (store.events(1), store.events(1, after=1))


def test_an_entry_that_is_missing_is_found(new_store: NewStore, folder: Path, said: Inputs) -> None:
    store = new_store()
    store.open()
    for text in ("one", "two", "three"):
        store.commit(said(1, text))
    store.close()
    run_sql(folder, "DELETE FROM entry WHERE sequence = 2")
    store = new_store()
    store.open()
    for read in (store.entries, store.newest_entries):
        with pytest.raises(StoreCorrupt, match=r"the entry 2 of worker-00000001 is missing"):
            read(1)


def test_a_worker_whose_running_events_are_damaged_still_counts_as_running(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    store.commit(said(1, "first"))
    store.close()
    run_sql(folder, "UPDATE event SET payload = CAST('{}' AS BLOB)")
    assert (new_store().open()).activities == {FIRST: Activity("running")}


def test_a_failed_open_lets_go_of_the_store(new_store: NewStore, folder: Path) -> None:
    new_store().open("runtime-mine")
    other = folder.with_name("other")
    other.mkdir()
    (other / "runtime.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StoreCorrupt):
        new_store(other).open()
    (other / "runtime.sqlite3").unlink()
    new_store(other).open()


def test_a_newer_schema_is_refused_with_the_way_back_and_left_alone(new_store: NewStore, folder: Path) -> None:
    store = new_store()
    store.open()
    store.close()
    newer = VERSION + 1
    run_sql(folder, f"PRAGMA user_version = {newer}")
    before = (folder / "runtime.sqlite3").read_bytes()
    with pytest.raises(
        StoreUnsupported,
        match=rf"newer version of runtimed \(schema {newer}, this one knows up to {VERSION}\): start runtimed"
        rf" {__version__} again, or restore a backup that was made before the upgrade",
    ):
        new_store().open()
    assert (folder / "runtime.sqlite3").read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(new_store: NewStore, folder: Path) -> None:
    folder.mkdir()
    (folder / "runtime.sqlite3").write_bytes(b"something else entirely, " * 100)
    with pytest.raises(StoreCorrupt, match="the store is damaged: file is not a database"):
        new_store().open()
    assert (folder / "runtime.sqlite3").read_bytes() == b"something else entirely, " * 100


def test_a_database_of_another_program_is_refused_and_left_alone(new_store: NewStore, folder: Path) -> None:
    folder.mkdir()
    run_sql(folder, "CREATE TABLE theirs (a)")
    before = (folder / "runtime.sqlite3").read_bytes()
    with pytest.raises(StoreUnsupported, match="was not made by runtimed"):
        new_store().open()
    assert (folder / "runtime.sqlite3").read_bytes() == before


@pytest.mark.parametrize("missing", [1, 1_000, 4_120])
def test_a_torn_end_of_the_log_loses_the_last_change_alone(
    new_store: NewStore, folder: Path, said: Inputs, missing: int
) -> None:
    torn = _copy_of_an_open_store(new_store, folder, said)
    log = torn / "runtime.sqlite3-wal"
    log.write_bytes(log.read_bytes()[:-missing])
    store = new_store(torn)
    assert (store.open()).head == 9
    assert len(store.entries(1)) == 9
    assert len(store.events(1)) == 9


def test_a_store_that_was_not_closed_has_all_that_was_acknowledged(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store(_copy_of_an_open_store(new_store, folder, said))
    assert (store.open()).head == 10


def _copy_of_an_open_store(new_store: NewStore, folder: Path, said: Inputs) -> Path:
    """What a power cut would leave behind ten inputs, each in a transaction of its own."""
    store = new_store()
    store.open()
    for number in range(1, 11):
        store.commit(said(1, f"input {number}"))
    copied = folder.with_name("copied")
    copied.mkdir()
    for name in ("runtime.sqlite3", "runtime.sqlite3-wal"):
        shutil.copyfile(folder / name, copied / name)
    return copied


def test_files_that_are_taken_away_are_noticed_before_anything_is_acknowledged(
    new_store: NewStore, folder: Path, said: Inputs
) -> None:
    store = new_store()
    store.open()
    store.commit(said(1, "kept"))
    (folder / "runtime.sqlite3").rename(folder / "away")
    with pytest.raises(StoreMissing):
        store.commit(said(1, "lost"))
    (folder / "away").rename(folder / "runtime.sqlite3")
    with pytest.raises(StoreMissing):
        store.commit(said(1, "nothing is promised any more"))


def test_a_failed_write_ends_all_writing_but_not_the_reading(new_store: NewStore, folder: Path, said: Inputs) -> None:
    store = new_store()
    store.open()
    change = said(1, "once")
    store.commit(change)
    outcomes = store.commit_at_once(change, said(1, "after"), said(2, "other"))
    assert [type(outcome) for outcome in outcomes] == [StoreIo] * 3
    with pytest.raises(StoreIo, match="writing to the store failed"):
        store.commit(said(2, "later"))
    assert store.entries(1) == ["once"]
    store.close()
    assert (new_store().open()).head == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_refuses_only_what_does_not_fit_and_recovers_by_itself(
    small_disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(small_disk / "store")
    store.open()
    store.commit(said(1, "before"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    outcomes = store.commit_at_once(said(2, "small"), said(3, "x" * 600_000), said(4, "other"))
    assert [isinstance(outcome, StoreFull) for outcome in outcomes] == [False, True, False]
    assert [store.entries(number) for number in (1, 2, 3, 4)] == [["before"], ["small"], [], ["other"]]
    ballast.unlink()
    store.commit(said(5, "y" * 200_000))
    store.close()
    state = new_store(small_disk / "store").open()
    assert [worker.worker_id for worker in state.workers] == [worker_id(n) for n in (1, 2, 4, 5)]


def test_a_wait_for_the_disk_is_no_cost_of_a_commit(
    tmp_path: Path, new_store: NewStore, said: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_files = Writer._check_files

    def check_late(writer: Writer) -> None:
        time.sleep(1)
        check_files(writer)

    monkeypatch.setattr(Writer, "_check_files", check_late)
    store = new_store(tmp_path / "store")
    store.open()

    store.commit(said(1, "before"))

    assert 0 < store.store.commit_cost_s < 0.5


def test_a_commit_that_failed_leaves_the_bytes_of_the_events_as_they_were(
    small_disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(small_disk / "store")
    store.open()
    [before] = store.commit(said(1, "before"))
    [small, large] = store.commit_at_once(said(2, "small"), said(3, "x" * 900_000))
    assert isinstance(large, StoreFull)
    assert not isinstance(small, BaseException)
    counted = len(before.payload) + len(small[0].payload)
    assert store.store.event_bytes == counted
    store.close()
    again = new_store(small_disk / "store")
    again.open()
    assert again.store.event_bytes == counted


def test_a_store_on_a_disk_filled_to_the_brim_keeps_all_and_opens_again(
    small_disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(small_disk / "store")
    store.open()
    outcomes = [store.commit_at_once(said(1, "x" * 10_000))[0] for _ in range(150)]
    kept = sum(not isinstance(outcome, StoreFull) for outcome in outcomes)
    assert 10 < kept < 150
    assert len(store.entries(1)) == len(store.events(1)) == kept
    store.close()
    again = new_store(small_disk / "store")
    again.open()
    assert len(again.entries(1)) == kept


def test_a_log_that_fills_the_disk_makes_way_for_more(small_disk: Path, new_store: NewStore, said: Inputs) -> None:
    store = new_store(small_disk / "store")
    store.open()
    store.commit(said(1, "first"))
    state = said(1, "never stored").worker
    for _ in range(600):
        store.commit(Change(worker=state))
    assert store.entries(1) == ["first"]


WRITER = """
import asyncio, sys
from pathlib import Path
from runtimed.core.state.change import Change, Entry, Event
from runtimed import __version__
from runtimed.core.paging import PageSize
from runtimed.model.event import TextDelta
from runtimed.model.identity import worker_id
from runtimed.store.sqlite.writer import Writer
from runtimed.store.sqlite import SqliteStore

async def write():
    store = SqliteStore(Path(sys.argv[1]))
    sequence = (await store.open(None)).head
    async def client(number):
        nonlocal sequence
        found = await store.read_events(worker_id(number), 0, sequence, PageSize(10**6, 10**9))
        before = found[-1].sequence if found else 0
        while True:
            sequence += 1
            mine = sequence
            event = Event(mine, worker_id(number), 1, TextDelta("x"), mine, 0, "running", before)
            await store.commit(Change(events=[event]))
            before = mine
            print(mine, flush=True)
    await asyncio.gather(*map(client, range(1, 6)))

asyncio.run(write())
"""


def test_kill_9_loses_nothing_that_was_acknowledged(new_store: NewStore, folder: Path) -> None:
    acknowledged: set[int] = set()
    for least in (50, 173, 411):
        acknowledged |= _write_until_killed(folder, least)
    store = new_store()
    head = store.open().head
    stored = [sequence for number in range(1, 6) for sequence in store.events(number)]
    assert len(acknowledged) >= 50 + 173 + 411
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))
    assert max(stored) == head


def _write_until_killed(folder: Path, least: int) -> set[int]:
    with subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        lines = [writer.stdout.readline() for _ in range(least)]
        writer.kill()
        lines += writer.stdout.read().splitlines(keepends=True)
    return {int(line) for line in lines if line.endswith(b"\n")}


def test_a_program_that_embeds_a_memory_store_loads_no_sqlite() -> None:
    program = "import sys, runtimed.store.memory; print('apsw' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
