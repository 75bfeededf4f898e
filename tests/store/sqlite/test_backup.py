"""Backups of a durable store, and stores that are restored from them."""

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import socket
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from runtimed import __version__
from runtimed.core.ports import Backup
from runtimed.core.state.change import Change, StoredState
from runtimed.errors import (
    RuntimeStopped,
    StoreCorrupt,
    StoreFull,
    StoreInUse,
    StoreIo,
    StoreUnsupported,
    Unavailable,
)
from runtimed.model.identity import worker_id
from runtimed.store.archive import MAX_DEPTH, SKIPPED, archive
from runtimed.store.factories import Progress
from runtimed.store.records import META
from runtimed.store.sqlite import copying, online_backup, writer
from runtimed.store.sqlite.connection import connect
from runtimed.store.sqlite.inspection import inspect
from runtimed.store.sqlite.offline_backup import back_up
from runtimed.store.sqlite.online_backup import copy_of
from runtimed.store.sqlite.restore import LOST_SEQUENCES, LOST_WORKERS, restore
from runtimed.store.sqlite.schema import VERSION
from tests.store.conftest import Driven, Inputs, NewStore
from tests.store.sqlite.test_migration import make_version_1

FIRST = worker_id(1)
INPUTS = 10
DEADLINE_S = 30


def ignore(_copied: int, _pages: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def store(new_store: NewStore, said: Inputs) -> Driven:
    """An open store with a Worker and ten inputs."""
    store = new_store()
    store.open("runtime-mine")
    for number in range(INPUTS):
        store.commit(said(1, f"input {number}"))
    return store


def taken(store: Driven, file: Path, *, with_folders: bool = False) -> Path:
    """A backup of an open store, in a file."""

    async def read() -> tuple[int | None, bytes]:
        backup = await store.store.backup(with_folders=with_folders)
        try:
            return backup.size_bytes, b"".join(await all_blocks(backup))
        finally:
            await backup.close()

    size_bytes, found = store.run(read())
    assert size_bytes == (None if with_folders else len(found))
    file.write_bytes(found)
    return file


async def all_blocks(backup: Backup) -> list[bytes]:
    blocks = []
    while block := await backup.read():
        blocks.append(block)
    return blocks


def restored(file: Path, folder: Path) -> Path:
    """A folder with the store of a sound backup, which is sound itself."""
    assert restore(file, folder).check.findings == ()
    assert inspect(folder).check.findings == ()
    return folder


def opened(new_store: NewStore, folder: Path) -> tuple[Driven, StoredState]:
    store = new_store(folder)
    return store, store.open()


def test_a_backup_of_an_open_store_is_a_whole_database_without_a_log(
    store: Driven, tmp_path: Path, folder: Path
) -> None:
    file = taken(store, tmp_path / "backup")

    with contextlib.closing(apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        assert connection.execute("SELECT count(*) FROM event").get == INPUTS
        assert connection.pragma("journal_mode") == "delete"
    assert not copy_of(folder / "runtime.sqlite3").exists()


def test_a_backup_holds_what_was_acknowledged_before_it_and_nothing_of_what_came_later(
    store: Driven, tmp_path: Path, said: Inputs, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "STEP_PAGES", 1)

    async def read_while_inputs_come() -> bytes:
        making = asyncio.create_task(store.store.backup())
        for number in range(200):
            await store.store.commit(said(1 + number % 3, "later " * 500))
        backup = await making
        try:
            return b"".join(await all_blocks(backup))
        finally:
            await backup.close()

    file = tmp_path / "backup"
    file.write_bytes(store.run(read_while_inputs_come()))
    copy, state = opened(new_store, restored(file, tmp_path / "restored"))

    assert copy.entries(1)[:INPUTS] == [f"input {number}" for number in range(INPUTS)]
    held = [worker.transcript_len for worker in state.workers]
    assert sum(held) == sum(len(copy.events(number)) for number in range(1, len(held) + 1))
    assert store.check().findings == ()
    assert store.commit(said(1, "afterwards"))


def test_one_backup_is_made_at_a_time_and_the_next_one_after_it(store: Driven) -> None:
    async def make_two() -> None:
        first = await store.store.backup()
        with pytest.raises(Unavailable, match="another backup is being made"):
            await store.store.backup()
        await first.close()
        await first.close()
        second = await store.store.backup()
        await second.close()

    store.run(make_two())


def test_a_store_that_closes_ends_its_backup(store: Driven) -> None:
    async def close_amid_a_backup() -> None:
        backup = await store.store.backup()
        await store.store.close()
        with pytest.raises(RuntimeStopped):
            await backup.read()
        with pytest.raises(RuntimeStopped):
            await store.store.backup()

    store.run(close_amid_a_backup())


def test_a_disk_without_room_for_the_copy_is_told_beforehand_and_keeps_nothing(
    store: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch, said: Inputs
) -> None:
    monkeypatch.setattr(copying, "SPARE_BYTES", 2**60)

    with pytest.raises(
        StoreFull, match=r"too little space for a copy of the store: \d+ bytes are needed, \d+ are free"
    ):
        store.run(store.store.backup())

    assert not copy_of(folder / "runtime.sqlite3").exists()
    assert store.commit(said(1, "afterwards"))


def test_a_disk_that_fills_up_ends_the_copy(
    store: Driven, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    monkeypatch.setattr(copying, "STEP_PAGES", 1)

    def lose_room(_copied: int, _pages: int) -> None:
        monkeypatch.setattr(copying, "SPARE_BYTES", 2**60)

    with pytest.raises(StoreFull, match="too little space for a copy of the store"):
        back_up(folder, tmp_path / "backup", lose_room)

    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_a_disk_that_fills_up_ends_a_backup_that_is_being_read_and_gets_its_space_back(
    store: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_until_the_disk_is_full() -> None:
        backup = await store.store.backup()
        assert await backup.read()
        monkeypatch.setattr(writer, "MIN_ROOM_BYTES", 2**60)
        async with asyncio.timeout(DEADLINE_S):
            while not store.store.is_full:
                await asyncio.sleep(0.01)
        with pytest.raises(StoreFull, match="the backup was given up"):
            await backup.read()
        await backup.close()

    store.run(read_until_the_disk_is_full())
    with pytest.raises(StoreFull, match="the backup was given up"):
        store.run(store.store.backup())


def committing(store: Driven, change: Callable[[], Change], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each copy of an open store meet a few commits, after its first step."""
    loop, copy_database = asyncio.get_running_loop(), copying.copy_database

    async def commit() -> None:
        for _ in range(3):
            await store.store.commit(change())

    def copy(source: apsw.Connection, target: Path, progress: Progress) -> None:
        def commit_first(copied: int, pages: int) -> None:
            if copied == 1:
                asyncio.run_coroutine_threadsafe(commit(), loop).result(DEADLINE_S)
            progress(copied, pages)

        copy_database(source, target, commit_first)

    monkeypatch.setattr(copying, "STEP_PAGES", 1)
    monkeypatch.setattr(online_backup, "copy_database", copy)


def test_a_log_that_grows_too_far_ends_the_copy(
    store: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch, said: Inputs
) -> None:
    monkeypatch.setattr(copying, "MAX_GROWTH_BYTES", 0)

    async def back_up_amid_commits() -> None:
        committing(store, lambda: said(1, "later " * 1_000), monkeypatch)
        await store.store.backup()

    with pytest.raises(Unavailable, match="changes come too fast"):
        store.run(back_up_amid_commits())

    assert not copy_of(folder / "runtime.sqlite3").exists()
    assert store.commit(said(1, "afterwards"))


def test_a_log_that_was_large_before_a_backup_does_not_end_it(
    store: Driven, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "MAX_GROWTH_BYTES", 0)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("runtime.sqlite3", "runtime.sqlite3-wal"):
        shutil.copyfile(folder / name, crashed / name)
    assert (crashed / "runtime.sqlite3-wal").stat().st_size > 0

    restored(taken(store, tmp_path / "online"), tmp_path / "restored online")
    assert back_up(crashed, tmp_path / "offline", ignore).check.events == INPUTS


def test_the_log_of_a_backup_is_not_left_to_the_thread_that_writes(
    store: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch, said: Inputs
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 1)
    copied: list[tuple[int, int]] = []
    pin_log = writer.Writer.pin_log

    def pin(self: writer.Writer, pinned: bool) -> None:
        if not pinned:
            copied.append(pages_of_log(folder))
        pin_log(self, pinned)

    async def back_up_amid_commits() -> None:
        committing(store, lambda: said(1, "later " * 10_000), monkeypatch)
        monkeypatch.setattr(writer.Writer, "pin_log", pin)
        backup = await store.store.backup()
        await backup.close()

    store.run(back_up_amid_commits())

    [(pages, in_database)] = copied
    assert in_database == pages > 30
    assert store.check().findings == ()


def pages_of_log(folder: Path) -> tuple[int, int]:
    """How many pages the write-ahead log has, and how many of them are in the database already."""
    with contextlib.closing(connect(folder / "runtime.sqlite3")) as connection:
        return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)


def test_a_copy_that_cannot_be_opened_is_removed(
    store: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch, said: Inputs
) -> None:
    def copy(source: apsw.Connection, target: Path, progress: Progress) -> None:
        copying.copy_database(source, target, progress)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(online_backup, "copy_database", copy)

    with pytest.raises(StoreIo, match="Too many open files"):
        store.run(store.store.backup())

    assert not copy_of(folder / "runtime.sqlite3").exists()
    assert store.commit(said(1, "afterwards"))


def test_what_a_killed_daemon_left_of_a_copy_is_removed_at_the_start(folder: Path, new_store: NewStore) -> None:
    folder.mkdir(mode=0o700)
    left = copy_of(folder / "runtime.sqlite3")
    left.write_bytes(b"a part")

    new_store().open()

    assert not left.exists()


def test_a_restored_store_goes_on_far_above_the_backup_and_knows_the_gap(
    store: Driven, tmp_path: Path, new_store: NewStore
) -> None:
    file = taken(store, tmp_path / "backup")

    copy, state = opened(new_store, restored(file, tmp_path / "restored"))

    assert state.runtime_id == "runtime-mine"
    assert is_far_above(state, INPUTS, 1)
    [gap] = state.gaps
    assert (gap.head, gap.raised_to) == (INPUTS, state.head)
    held = [gap.holds(sequence) for sequence in (INPUTS, INPUTS + 1, gap.raised_to - 1, gap.raised_to)]
    assert held == [False, True, True, False]
    assert copy.entries(1) == store.entries(1)
    assert copy.events(1) == store.events(1)


def is_far_above(state: StoredState, head: int, worker_number: int) -> bool:
    """Whether a store gives out no number that the Runtime can have given out after these."""
    is_readable = state.head < 2**53 and state.runtime_event_id < 2**53 and state.worker_number < 2**32
    is_above = state.head >= head + LOST_SEQUENCES and state.worker_number >= worker_number + LOST_WORKERS
    return is_readable and is_above and state.runtime_event_id >= LOST_SEQUENCES


@pytest.mark.parametrize("unix_s", [None, 0, 2**34], ids=["now", "a clock of 1970", "a clock of 2514"])
def test_a_backup_that_is_restored_twice_gives_out_different_numbers_each_time(
    store: Driven, tmp_path: Path, new_store: NewStore, monkeypatch: pytest.MonkeyPatch, unix_s: int | None
) -> None:
    file = taken(store, tmp_path / "backup")
    if unix_s is not None:
        monkeypatch.setattr(time, "time_ns", lambda: unix_s * 10**9)

    first, second = (opened(new_store, restored(file, tmp_path / name))[1] for name in ("first", "second"))

    assert is_far_above(first, INPUTS, 1)
    assert is_far_above(second, INPUTS, 1)
    assert first.head != second.head
    assert first.runtime_event_id != second.runtime_event_id
    assert first.worker_number != second.worker_number
    assert unix_s is not None or first.head < second.head


def test_backups_of_restored_stores_add_gap_to_gap(store: Driven, tmp_path: Path, new_store: NewStore) -> None:
    file = taken(store, tmp_path / "backup")
    heads, worker_number = [INPUTS], 1
    for number in range(3):
        copy, state = opened(new_store, restored(file, tmp_path / f"restored {number}"))
        assert is_far_above(state, heads[-1], worker_number)
        heads.append(state.head)
        worker_number = state.worker_number
        file = taken(copy, tmp_path / f"backup {number}")

    assert [(gap.head, gap.raised_to) for gap in state.gaps] == list(itertools.pairwise(heads))


def test_a_store_that_does_not_know_its_gaps_is_refused(store: Driven, tmp_path: Path, new_store: NewStore) -> None:
    folder = restored(taken(store, tmp_path / "backup"), tmp_path / "restored")
    alter(folder / "runtime.sqlite3", "UPDATE gap SET raised_to = head + 1")

    with pytest.raises(StoreCorrupt, match="the gap after wo_000000000000000a is damaged"):
        new_store(folder).open()

    assert [finding.problem for finding in inspect(folder).check.findings] == [
        "the gap after wo_000000000000000a is damaged: its content is not what was stored"
    ]
    back_up(folder, tmp_path / "second backup", ignore)
    with pytest.raises(StoreCorrupt, match="the gap after wo_000000000000000a is damaged"):
        restore(tmp_path / "second backup", tmp_path / "again")


def test_a_store_is_not_restored_beyond_the_numbers_that_there_are(
    store: Driven, tmp_path: Path, folder: Path
) -> None:
    store.close()
    change_meta(folder, "worker_number", 2**32 - 2**16)
    file = tmp_path / "backup"
    back_up(folder, file, ignore)

    with pytest.raises(StoreUnsupported, match="restored too often: worker_number"):
        restore(file, tmp_path / "restored")

    assert not (tmp_path / "restored").exists()


def change_meta(folder: Path, key: str, number: int) -> None:
    with contextlib.closing(apsw.Connection(str(folder / "runtime.sqlite3"))) as connection:
        connection.execute(META.insert, META.row((key, number)))


def test_an_existing_store_and_a_folder_with_files_are_left_alone(
    store: Driven, tmp_path: Path, folder: Path, new_store: NewStore
) -> None:
    file = taken(store, tmp_path / "backup")
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()

    for place in (folder, other, file):
        with pytest.raises(StoreUnsupported, match=r": it exists already; expected a path at which there is nothing"):
            restore(file, place)

    (other / "file").unlink()
    restored(file, other)
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    assert sorted(path.name for path in tmp_path.iterdir() if "restoring" in path.name) == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: b"no backup at all" * 100, "expected a file that a backup made"),
        (lambda data: b"", "expected a file that a backup made"),
        (lambda data: data[: len(data) // 2], "damaged|malformed"),
    ],
)
def test_a_file_that_is_no_whole_backup_is_refused_and_leaves_nothing(
    store: Driven, tmp_path: Path, damage: Callable[[bytes], bytes], problem: str
) -> None:
    file = taken(store, tmp_path / "backup")
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises((StoreUnsupported, StoreCorrupt), match=problem):
        restore(file, tmp_path / "restored")

    assert [path.name for path in tmp_path.iterdir() if "restor" in path.name] == []


def test_a_damaged_row_is_reported_and_everything_else_is_restored(
    store: Driven, tmp_path: Path, new_store: NewStore, said: Inputs
) -> None:
    store.commit(said(2, "of another Worker"))
    file = taken(store, tmp_path / "backup")
    data = file.read_bytes()
    assert data.count(b"input 7") == 2
    file.write_bytes(data.replace(b"input 7", b"input 8"))

    found = restore(file, tmp_path / "restored").check

    assert {finding.worker_id for finding in found.findings} == {FIRST}
    assert inspect(tmp_path / "restored").check == found
    copy, state = opened(new_store, tmp_path / "restored")
    assert is_far_above(state, INPUTS + 1, 2)
    assert copy.entries(2) == ["of another Worker"]
    with pytest.raises(StoreCorrupt, match=FIRST):
        copy.entries(1)


def test_a_worker_that_cannot_be_served_does_not_keep_the_others_from_being_restored(
    store: Driven, tmp_path: Path, new_store: NewStore, said: Inputs
) -> None:
    store.commit(said(2, "of another Worker"))
    file = taken(store, tmp_path / "backup")
    alter(file, "UPDATE worker SET checksum = checksum + 1 WHERE number = 2")

    found = restore(file, tmp_path / "restored").check

    assert [finding.worker_id for finding in found.findings] == [worker_id(2)]
    copy, state = opened(new_store, tmp_path / "restored")
    assert state.damaged.keys() == {worker_id(2)}
    assert len(copy.entries(1)) == INPUTS


@pytest.mark.parametrize(
    "statement",
    ["UPDATE meta SET checksum = checksum + 1 WHERE key = 'head'", "DELETE FROM meta WHERE key = 'worker_number'"],
)
def test_damage_with_which_no_store_starts_is_refused_and_leaves_nothing(
    store: Driven, tmp_path: Path, statement: str
) -> None:
    file = taken(store, tmp_path / "backup")
    alter(file, statement)

    with pytest.raises(StoreCorrupt, match="meta"):
        restore(file, tmp_path / "restored")

    assert [path.name for path in tmp_path.iterdir() if "restor" in path.name] == []


def alter(file: Path, statement: str) -> None:
    with contextlib.closing(apsw.Connection(str(file))) as connection:
        connection.execute(statement)
        assert connection.changes() == 1


def test_a_restore_that_was_killed_is_cleared_away_and_one_that_runs_is_not(store: Driven, tmp_path: Path) -> None:
    file = taken(store, tmp_path / "backup")
    left = tmp_path / ".restored.restoring"
    (left / "workers" / "deep").mkdir(parents=True)
    (left / "lock").touch()

    with (left / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreInUse):
            restore(file, tmp_path / "restored")
        assert (left / "workers" / "deep").exists()

    restored(file, tmp_path / "restored")
    assert not left.exists()
    assert not (tmp_path / "restored" / "workers").exists()


def test_a_backup_without_a_daemon_is_checked_and_private_and_changes_nothing(
    store: Driven, tmp_path: Path, folder: Path
) -> None:
    file = tmp_path / "backup"
    file.write_text("an earlier backup")
    with pytest.raises(StoreInUse):
        back_up(folder, file, ignore)
    assert file.read_text() == "an earlier backup"
    store.close()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    found = back_up(folder, file, ignore)

    assert (found.check.workers, found.check.events, found.check.findings) == (1, INPUTS, ())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    restored(file, tmp_path / "restored")


def test_a_backup_is_not_made_inside_of_the_store_or_as_a_folder(store: Driven, folder: Path, tmp_path: Path) -> None:
    store.close()

    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(folder)
    os.mkfifo(tmp_path / "pipe")
    inside = (folder / "backup", tmp_path / "link" / "backup")
    for file in (
        *inside,
        tmp_path / "pipe",
        tmp_path,
        Path("/"),
        Path(),
        tmp_path / "missing" / "backup",
        tmp_path / "loop" / "backup",
    ):
        with pytest.raises(StoreUnsupported, match=r": expected a file (outside of the store|in a folder)"):
            back_up(folder, file, ignore)


def test_a_backup_is_made_where_links_lead_and_replaces_a_link_at_its_place(
    store: Driven, folder: Path, tmp_path: Path
) -> None:
    store.close()
    (tmp_path / "disk").mkdir()
    (tmp_path / "backups").symlink_to("disk")
    (tmp_path / "linked store").symlink_to(folder)
    (tmp_path / "precious").write_text("a file of somebody else")
    (tmp_path / "disk" / "latest").symlink_to(tmp_path / "precious")

    back_up(tmp_path / "linked store", tmp_path / "backups" / "latest", ignore)

    assert (tmp_path / "precious").read_text() == "a file of somebody else"
    restored(tmp_path / "backups" / "latest", tmp_path / "backups" / "restored")
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["latest", "restored"]
    assert not (tmp_path / "disk" / "latest").is_symlink()


def test_the_token_is_in_no_backup(store: Driven, tmp_path: Path) -> None:
    token, _ = store.store.data_dir.read_or_make_token()

    assert token.encode() not in taken(store, tmp_path / "database").read_bytes()
    assert token.encode() not in taken(store, tmp_path / "archive", with_folders=True).read_bytes()


def fill(home: Path) -> None:
    """The folder of a Worker with all kinds of entries."""
    (home / "deep" / "er").mkdir(parents=True)
    (home / "deep" / "er" / "script").write_text("echo hello")
    (home / "deep" / "er" / "script").chmod(0o4755)
    (home / "closed").mkdir()
    (home / "closed" / "file").write_bytes(os.urandom(1_000_000))
    (home / "closed").chmod(0o500)
    (home / "empty").touch()
    (home / "link").symlink_to("/etc/passwd")
    (home / "folder link").symlink_to("deep")
    os.utime(home / "empty", (1_000, 1_000))
    (home / os.fsdecode(b"bad \xff name")).write_text("bytes")
    (home / ("long " * 40)).write_text("a long name")
    os.mkfifo(home / "pipe")
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(home):
        bound.bind("socket")
    with (home / "holes").open("wb") as file:
        file.truncate(2**40)


def contents(folder: Path) -> dict[str, tuple[int, object]]:
    """The modes and contents of what is in a folder."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content: object = None
        if stat.S_ISLNK(mode):
            content = path.readlink()
        elif stat.S_ISREG(mode):
            content = path.read_bytes(), int(path.stat().st_mtime)
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode) | (mode & 0o777), content)
    return found


def test_an_archive_has_the_folders_as_they_are_and_names_what_it_cannot_hold(
    store: Driven, tmp_path: Path, folder: Path
) -> None:
    home = store.store.data_dir.worker_folder(FIRST) / "home"
    home.mkdir()
    fill(home)
    store.store.data_dir.records_folder(make=True).joinpath(f"{FIRST}.json").write_text("{}")
    file = taken(store, tmp_path / "backup.tar", with_folders=True)

    found = restore(file, tmp_path / "restored")

    assert found.check.findings == ()
    assert sorted(found.skipped) == [
        f"'workers/{FIRST}/home/holes': it consists mostly of holes",
        f"'workers/{FIRST}/home/pipe': it is a device, a pipe or a socket",
        f"'workers/{FIRST}/home/socket': it is a device, a pipe or a socket",
    ]
    for name in ("pipe", "socket", "holes"):
        (home / name).unlink()
    for name in ("workers", "workspaces"):
        assert contents(tmp_path / "restored" / name) == contents(folder / name)
    assert not (tmp_path / "restored" / "workers" / FIRST / "home" / "deep" / "er" / "script").stat().st_mode & 0o7000
    assert inspect(tmp_path / "restored").check.findings == ()


def test_a_copy_of_the_database_that_cannot_be_read_to_its_end_is_never_a_whole_archive(
    store: Driven, tmp_path: Path, folder: Path
) -> None:
    copy = taken(store, tmp_path / "copy")
    with copy.open("rb") as database:
        blocks = archive(database, folder)
        next(blocks)
        os.truncate(copy, copy.stat().st_size // 2)

        with pytest.raises(StoreIo, match="the copy of the database cannot be read"):
            list(blocks)


def test_folders_too_deep_are_left_out_and_named(store: Driven, tmp_path: Path) -> None:
    home = store.store.data_dir.worker_folder(FIRST) / "home"
    deep = home
    for _ in range(MAX_DEPTH + 5):
        deep = deep / "d"
    deep.mkdir(parents=True)
    file = taken(store, tmp_path / "backup.tar", with_folders=True)

    [skipped] = restore(file, tmp_path / "restored").skipped

    assert skipped.endswith(f": it is more than {MAX_DEPTH} folders deep")


def test_a_link_that_takes_the_place_of_a_folder_is_not_followed(store: Driven, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("a secret of somebody else")
    store.store.data_dir.worker_folder(FIRST)
    (folder / "workers" / "worker-00000002").symlink_to(tmp_path / "outside")
    (folder / "workspaces").symlink_to(tmp_path / "outside")

    file = taken(store, tmp_path / "backup.tar", with_folders=True)

    assert b"a secret of somebody else" not in file.read_bytes()
    assert file.read_bytes()[-1024:] == bytes(1024)


def test_an_archive_that_is_cut_anywhere_is_refused(store: Driven, tmp_path: Path) -> None:
    home = store.store.data_dir.worker_folder(FIRST) / "home"
    home.mkdir()
    (home / "file").write_bytes(bytes(5_000))
    whole = taken(store, tmp_path / "whole.tar", with_folders=True).read_bytes()

    for size in (100, 600, 5_000, len(whole) // 2, len(whole) - 2_600, len(whole) - 1_600):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:size])
        with pytest.raises((StoreUnsupported, StoreCorrupt)):
            restore(cut, tmp_path / "restored")
        assert [path.name for path in tmp_path.iterdir() if "restor" in path.name] == []


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, target, 0o777
    return found


@pytest.mark.parametrize(
    "members",
    [
        [member("../escaped")],
        [member("/escaped")],
        [member("token")],
        [member("workers", tarfile.DIRTYPE), member("workers/../../escaped")],
        [member("workers", tarfile.DIRTYPE), member("workers/x/escaped")],
        [member("workers", tarfile.SYMTYPE, ".."), member("workers/escaped")],
        [
            member("workers", tarfile.DIRTYPE),
            member("workers/a", tarfile.SYMTYPE, "../.."),
            member("workers/a/escaped"),
        ],
        [member("workers", tarfile.DIRTYPE), member("workers/a", tarfile.LNKTYPE, "/etc/passwd")],
        [member("workers", tarfile.DIRTYPE), member("workers/a", tarfile.CHRTYPE)],
    ],
)
def test_an_archive_of_an_attacker_writes_nothing_outside_of_its_folders(
    store: Driven, tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    database, file = taken(store, tmp_path / "database"), tmp_path / "crafted.tar"
    with tarfile.open(file, "w") as crafted:
        crafted.add(database, "runtime.sqlite3")
        for one in [*members, member(SKIPPED)]:
            crafted.addfile(one)

    with pytest.raises(StoreCorrupt, match="the archive is no backup"):
        restore(file, tmp_path / "restored")

    assert [path for path in tmp_path.rglob("*") if path.name == "escaped"] == []
    assert [path.name for path in tmp_path.iterdir() if "restor" in path.name] == []


def test_a_backup_of_an_earlier_version_is_converted_while_it_is_restored(
    tmp_path: Path, folder: Path, new_store: NewStore
) -> None:
    make_version_1(folder).close()
    file = tmp_path / "backup"
    [remark] = back_up(folder, file, ignore).remarks
    before = file.read_bytes()

    copy, state = opened(new_store, restored(file, tmp_path / "restored"))

    assert f"the store has version 1: a start migrates it to {VERSION}" in remark
    assert file.read_bytes() == before
    assert state.runtime_id == "runtime-old"
    assert is_far_above(state, 9, 3)
    assert copy.entries(2) == ["ho"]
    assert inspect(folder).remarks == (remark,)


def test_a_backup_of_a_newer_version_is_refused_with_the_way_back(
    store: Driven, tmp_path: Path, folder: Path
) -> None:
    file = taken(store, tmp_path / "backup")
    with contextlib.closing(apsw.Connection(str(file))) as connection:
        connection.pragma("user_version", VERSION + 1)

    with pytest.raises(StoreUnsupported, match=rf"start runtimed {__version__} again, or restore a backup"):
        restore(file, tmp_path / "restored")

    assert not (tmp_path / "restored").exists()
