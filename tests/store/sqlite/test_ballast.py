"""What is stored on a full disk, and how the store finds its way back."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from runtimed.core.state.change import Change
from runtimed.errors import StoreFull, StoreMissing, StoreUnsupported
from runtimed.store.sqlite.ballast import BALLAST_BYTES, MIN_ROOM_BYTES
from tests.store.conftest import Driven, Inputs, NewStore

DEADLINE_S = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def room(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, left: int = 0) -> Path:
    """Take all room on the disk but this."""
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room(place) - left)
    return filler


def stopped(change: Change) -> Change:
    assert change.worker
    return attrs.evolve(change, worker=attrs.evolve(change.worker, status="stopped"))


def until_full(store: Driven, said: Inputs) -> int:
    """Commit until not even a small input is taken; how many were."""
    taken = 0
    for content in ("x" * 10_000, "x"):
        while not isinstance(store.commit_at_once(said(1, content))[0], StoreFull):
            taken += 1
        said.take_back()
    return taken


def test_room_is_kept_aside_in_real_blocks_that_are_private(disk: Path, new_store: NewStore) -> None:
    new_store(disk / "store").open()
    status = (disk / "store" / "ballast").stat()
    assert status.st_blocks * 512 >= BALLAST_BYTES
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_disk_without_room_for_it_is_used_to_its_end(disk: Path, new_store: NewStore, said: Inputs) -> None:
    fill(disk, BALLAST_BYTES)
    store = new_store(disk / "store")
    store.open()
    store.commit(said(1, "x" * 100_000))
    assert not (disk / "store" / "ballast").exists()


def test_on_a_full_disk_a_worker_can_still_be_stopped_while_inputs_are_refused(
    disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(disk / "store")
    store.open()
    store.commit(said(2, "before"))
    fill(disk)
    taken = until_full(store, said)
    store.commit(stopped(said(2, "the end")))
    assert (disk / "store" / "ballast").stat().st_size == 0
    for _ in range(5):
        assert isinstance(store.commit_at_once(said(3, "no"))[0], StoreFull)
        said.take_back()
    store.commit(stopped(said(1, "the end")))
    assert store.entries(2) == ["before", "the end"]
    assert len(store.entries(1)) == taken + 1


def test_the_store_recovers_by_itself_once_there_is_room(disk: Path, new_store: NewStore, said: Inputs) -> None:
    store = new_store(disk / "store")
    store.open()
    filler = fill(disk)
    until_full(store, said)
    store.commit(stopped(said(2, "the end")))
    filler.unlink()
    store.commit(said(1, "at once"))
    assert (disk / "store" / "ballast").stat().st_blocks * 512 >= BALLAST_BYTES


def test_the_room_is_kept_aside_again_though_nothing_is_written(
    disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(disk / "store")
    store.open()
    filler = fill(disk)
    until_full(store, said)
    store.commit(stopped(said(2, "the end")))
    filler.unlink()
    deadline = time.monotonic() + DEADLINE_S
    while (disk / "store" / "ballast").stat().st_blocks * 512 < BALLAST_BYTES:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_disk_shows_though_nothing_is_written_and_so_does_new_space(disk: Path, new_store: NewStore) -> None:
    store = new_store(disk / "store")
    store.open()
    assert not store.store.is_full

    for _ in range(2):
        filler = fill(disk)
        until(lambda: store.store.is_full)
        filler.unlink()
        until(lambda: not store.store.is_full)


def test_a_refused_commit_shows_a_full_disk_at_once(disk: Path, new_store: NewStore, said: Inputs) -> None:
    store = new_store(disk / "store")
    store.open()
    fill(disk, left=2 * MIN_ROOM_BYTES)
    until_full(store, said)

    assert store.store.is_full


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_that_cannot_be_copied_without_it_is_copied_with_it(
    disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(disk / "store")
    store.open()
    for _ in range(15):
        store.commit(said(1, "x" * 20_000))
    log = disk / "store" / "runtime.sqlite3-wal"
    grown = log.stat().st_size
    fill(disk)
    until_full(store, said)
    assert log.stat().st_size < grown
    assert room(disk) > BALLAST_BYTES


def test_the_room_is_not_spent_on_a_log_that_it_is_too_small_for(
    disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(disk / "store")
    store.open()
    store.commit(said(2, "before"))
    for _ in range(80):
        store.commit(said(1, "x" * 20_000))
    fill(disk)
    until_full(store, said)
    for number in range(3, 23):
        store.commit(stopped(said(number, "the end")))
    assert store.entries(22) == ["the end"]


def test_a_store_starts_on_a_full_disk_and_knows_that_its_room_is_in_use(
    disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(disk / "store")
    store.open()
    store.commit(said(1, "before"))
    store.close()
    filler = fill(disk)
    store = new_store(disk / "store")
    assert store.open().head == 1
    assert isinstance(store.commit_at_once(said(1, "no"))[0], StoreFull)
    said.take_back()
    store.commit(stopped(said(1, "the end")))
    store.close()
    again = new_store(disk / "store")
    again.open()
    assert again.entries(1) == ["before", "the end"]
    assert isinstance(again.commit_at_once(said(3, "no"))[0], StoreFull)
    said.take_back()
    filler.unlink()
    again.commit(said(3, "yes"))


def test_something_else_in_its_place_is_refused(new_store: NewStore, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "ballast").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnsupported, match=r"^ballast: expected a regular file, not a symlink$"):
        new_store().open()
    assert not (tmp_path / "elsewhere").exists()


def test_a_store_that_is_taken_away_while_its_disk_is_full_says_so(
    disk: Path, new_store: NewStore, said: Inputs
) -> None:
    store = new_store(disk / "store")
    store.open()
    store.commit(said(1, "x"))
    filler = fill(disk)
    until_full(store, said)
    store.commit(stopped(said(1, "x")))
    assert not (disk / "store" / "ballast").stat().st_size
    (disk / "store").rename(disk / "elsewhere")
    filler.unlink()
    outcome = store.commit_at_once(stopped(said(1, "x")))[0]
    assert isinstance(outcome, StoreMissing)


OVER_QUOTA = """
import asyncio, sys
from pathlib import Path
from runtimed.core.state.change import Change, Event
from runtimed.errors import StoreFull
from runtimed.model.event import TextDelta
from runtimed.model.identity import worker_id
from runtimed.store.sqlite import SqliteStore

async def write():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open(None)
    outcomes = []
    for sequence in range(1, 21):
        event = Event(sequence, worker_id(1), 1, TextDelta("x" * 5_000), sequence, 0, "running", 0)
        try:
            await store.commit(Change(events=[event]))
            outcomes.append("stored")
        except Exception as error:
            outcomes.append(type(error).__name__)
    await store.close()
    print(*outcomes)

asyncio.run(write())
"""


@pytest.mark.parametrize(("error", "refusal"), [(errno.EDQUOT, "StoreFull"), (errno.EIO, "StoreIo")])
def test_a_quota_is_a_full_disk_and_any_other_failed_write_is_the_end(folder: Path, error: int, refusal: str) -> None:
    name = errno.errorcode[error]
    command = ["strace", "-f", "-o", os.devnull, "-e", "trace=pwrite64", "-P", str(folder / "runtime.sqlite3-wal")]
    command += ["-e", f"inject=pwrite64:error={name}:when=90..92", sys.executable, "-c", OVER_QUOTA, str(folder)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("strace is not here")
    if "PTRACE" in ran.stderr:
        pytest.skip("tracing is not permitted here")
    outcomes = ran.stdout.split()
    assert set(outcomes) == {"stored", refusal}
    assert (outcomes[-1] == "stored") == (error == errno.EDQUOT)
