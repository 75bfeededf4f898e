"""What a check finds, in a store that serves and in one that no daemon holds."""

import asyncio
import contextlib
import os
import shutil
import stat
from pathlib import Path

import apsw
import pytest

from runtimed.core.state.change import Change
from runtimed.errors import StoreInUse, StoreUnsupported
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.runtime import MAX_FINDINGS, Finding, StoreCheck
from runtimed.store.sqlite import SqliteStore
from runtimed.store.sqlite.check import Check
from runtimed.store.sqlite.inspection import inspect
from runtimed.store.sqlite.schema import VERSION
from tests.store.conftest import Inputs, NewStore

FIRST, SECOND = worker_id(1), worker_id(2)


def run_sql(folder: Path, sql: str) -> None:
    connection = apsw.Connection(str(folder / "runtime.sqlite3"))
    connection.execute(sql)
    connection.close()


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Each file with its mode, its time of change and its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.fixture
def filled(new_store: NewStore, folder: Path, said: Inputs) -> Path:
    """A closed store with 700 inputs to each of two Workers: more than a step reads."""
    store = new_store()
    store.open("runtime-mine")
    store.commit_at_once(*(said(number, f"input {count}") for count in range(700) for number in (1, 2)))
    store.close()
    return folder


DAMAGE = [
    (
        "UPDATE entry SET content = CAST('forged' AS BLOB) WHERE worker = 2 AND sequence = 650",
        "the entry 650 is damaged: its content is not what was stored",
        SECOND,
    ),
    (
        "UPDATE event SET since = 7 WHERE sequence = 1301",
        "the event wo_0000000000000515 is damaged: its content is not what was stored",
        FIRST,
    ),
    (
        "UPDATE state SET status = 1 WHERE worker = 2",
        "the row is damaged: its content is not what was stored",
        SECOND,
    ),
    (
        "UPDATE worker SET tenant = 'other' WHERE number = 2",
        "the row is damaged: its content is not what was stored",
        SECOND,
    ),
    ("DELETE FROM entry WHERE worker = 1 AND sequence = 17", "the entry 17 is missing", FIRST),
    ("DELETE FROM event WHERE sequence = 1001", "the event wo_00000000000003e9 is missing", FIRST),
    ("INSERT INTO state VALUES (9, 0, 0, 0, 0, 0, 0, x'', 0, x'', 0)", "its row is missing", worker_id(9)),
    (
        "INSERT INTO bundle VALUES ('b', x'', 1)",
        "the bundle 'b' is damaged: its content is not what was stored",
        None,
    ),
    (
        "INSERT INTO runtime_event VALUES (1, 'runtime_started', NULL, NULL, 1, 1, '', '')",
        "the runtime event 1 is damaged: its content is not what was stored",
        None,
    ),
]


@pytest.mark.parametrize(("sql", "problem", "worker"), DAMAGE)
def test_what_is_wrong_is_told_in_plain_words_by_either_check(
    filled: Path, new_store: NewStore, sql: str, problem: str, worker: WorkerId | None
) -> None:
    run_sql(filled, sql)
    for checked in (inspect(filled).check, _checked_while_open(new_store)):
        assert Finding(problem, worker) in checked.findings
        assert {finding.worker_id for finding in checked.findings} == {worker}
        assert checked.workers == 2
        assert checked.entries + checked.events >= 2_799


def _checked_while_open(new_store: NewStore) -> StoreCheck:
    store = new_store()
    store.open()
    checked: StoreCheck = store.check()
    store.close()
    return checked


def test_a_store_that_is_whole_has_no_findings_and_all_of_it_was_read(filled: Path, new_store: NewStore) -> None:
    whole = StoreCheck(workers=2, entries=1_400, events=1_400, findings=())
    assert inspect(filled).check == whole
    assert _checked_while_open(new_store) == whole


def test_rows_of_a_worker_that_is_gone_without_a_trace_are_found(filled: Path) -> None:
    run_sql(filled, "DELETE FROM worker WHERE number = 2; DELETE FROM state WHERE worker = 2")
    assert [finding.worker_id for finding in inspect(filled).check.findings] == [SECOND]


def test_the_rest_of_a_deleted_worker_is_no_finding(filled: Path, new_store: NewStore) -> None:
    store = new_store()
    store.open()
    store.commit(Change(deleted=SECOND))
    assert store.check() == StoreCheck(workers=1, entries=1_400, events=1_400, findings=())


def test_a_check_finds_nothing_wrong_with_what_is_written_meanwhile(
    filled: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store()
    store.open()

    async def check_and_write() -> StoreCheck:
        writing = asyncio.create_task(_write(store.store, said))
        try:
            checked: StoreCheck = await store.store.check()
            return checked
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    checked = store.run(check_and_write())
    assert checked.findings == ()
    assert checked.events >= 1_400


async def _write(store: SqliteStore, said: Inputs) -> None:
    while True:
        await store.commit(said(1, "meanwhile"))


def test_a_check_of_a_large_store_reads_little_at_a_time(filled: Path) -> None:
    connection = apsw.Connection(str(filled / "runtime.sqlite3"))
    check = Check()
    before, most = 0, 0
    for step in check.rows():
        step(connection)
        assert not connection.in_transaction
        seen = check.counts["event"] + check.counts["entry"]
        most, before = max(most, seen - before), seen
    connection.close()
    assert check.result().events == 1_400
    assert most == 500


def test_a_check_says_no_more_than_can_be_read(filled: Path) -> None:
    run_sql(filled, "UPDATE event SET checksum = checksum + 1")
    assert len(inspect(filled).check.findings) == MAX_FINDINGS


def test_modes_and_symlinks_in_the_folder_are_looked_at(filled: Path) -> None:
    (filled / "token").write_text("secret")
    (filled / "token").chmod(0o644)
    (filled / "workers").mkdir(mode=0o700)
    (filled / "workers" / "worker-00000001").mkdir()
    (filled / "workers" / "worker-00000001").chmod(0o755)
    (filled / "elsewhere").symlink_to("/nowhere")
    filled.chmod(0o755)
    assert [finding.problem for finding in inspect(filled).check.findings] == [
        "the folder has the mode 755: expected 700",
        "the file elsewhere is a symlink: a store must not contain any",
        "the file token has the mode 644: expected 600",
        "the folder workers/worker-00000001 has the mode 755: expected 700",
    ]


@pytest.fixture
def crashed(filled: Path, new_store: NewStore, said: Inputs) -> Path:
    """What `kill -9` left of a store with a log; the flipped bit in it has hit the first Worker."""
    store = new_store()
    store.open()
    for number in (1, 2, 1, 2):
        store.commit(said(number, f"<{number}>" * 10_000))
    copy = filled.with_name("crashed")
    shutil.copytree(filled, copy)
    log = copy / "runtime.sqlite3-wal"
    (copy / "runtime.sqlite3-shm").unlink()
    body = bytearray(log.read_bytes())
    text = b"<1>" * 200
    in_a_page_of_text_alone = body.find(text, body.find(text) + 15_000) + 50
    body[in_a_page_of_text_alone] ^= 1
    log.write_bytes(body)
    return copy


def test_a_check_of_a_damaged_log_tells_what_a_start_would_do_and_does_not_do_it(crashed: Path) -> None:
    before = everything(crashed)
    check = inspect(crashed).check
    assert everything(crashed) == before
    assert [finding.worker_id for finding in check.findings] == [None, FIRST]
    assert check.findings[0].problem.endswith("a start repairs it and keeps a copy")
    assert check.entries == 1_404


def test_a_check_of_a_log_that_a_start_would_refuse_says_so(crashed: Path) -> None:
    log = crashed / "runtime.sqlite3-wal"
    body = bytearray(log.read_bytes())
    body[32] ^= 64
    log.write_bytes(body)
    before = everything(crashed)
    assert inspect(crashed).check.findings[0].problem.startswith("a start is refused: the write-ahead log is damaged")
    assert everything(crashed) == before


def test_a_check_changes_nothing_at_all(filled: Path) -> None:
    before = everything(filled)
    filled.chmod(0o755)
    inspect(filled)
    assert everything(filled) == before
    assert stat.S_IMODE(filled.stat().st_mode) == 0o755


def test_a_store_that_a_daemon_holds_is_not_checked_beside_it(filled: Path, new_store: NewStore) -> None:
    new_store().open()
    with pytest.raises(StoreInUse, match=f"in use by process {os.getpid()}"):
        inspect(filled)


def test_a_check_of_nothing_makes_nothing(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(StoreUnsupported, match="there is no store in"):
            inspect(place)
    assert not (tmp_path / "none").exists()


def test_a_store_of_version_1_is_left_at_that(filled: Path) -> None:
    run_sql(filled, "PRAGMA user_version = 1")
    before = everything(filled)
    found = inspect(filled)
    [remark] = found.remarks
    assert remark.startswith(f"the store has version 1: a start migrates it to {VERSION}, and earlier versions ")
    assert remark.endswith("; make a backup first. Its rows were not read")
    assert found.check == StoreCheck(0, 0, 0, ())
    assert everything(filled) == before
