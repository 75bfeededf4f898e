import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimed.errors import StoreInUse, StoreUnsupported
from runtimed.model.identity import worker_id
from runtimed.store.data_dir import DataDir
from tests.store.conftest import Inputs, NewStore


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o777 & ~0o600], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_folders_are_0700_and_files_0600_whatever_the_umask(new_store: NewStore, folder: Path, said: Inputs) -> None:
    store = new_store()
    store.open()
    store.commit(said(1, "hi"))
    store.store.data_dir.read_or_make_token()
    store.store.data_dir.worker_folder(worker_id(1))
    found = {path.name: mode(path) for path in [folder, *folder.rglob("*")]}
    assert found == {
        "store": 0o700,
        "lock": 0o600,
        "ballast": 0o600,
        "runtime.sqlite3": 0o600,
        "runtime.sqlite3-wal": 0o600,
        "runtime.sqlite3-shm": 0o600,
        "token": 0o600,
        "workers": 0o700,
        "worker-00000001": 0o700,
    }


def test_a_folder_and_files_of_ours_that_are_lax_are_tightened(new_store: NewStore, folder: Path) -> None:
    new_store().open()
    new_store(folder.with_name("other")).open()
    other = folder.with_name("second")
    other.mkdir(mode=0o755)
    (other / "lock").touch(mode=0o644)
    (other / "runtime.sqlite3").touch(mode=0o644)
    new_store(other).open()
    assert [mode(path) for path in (other, other / "lock", other / "runtime.sqlite3")] == [0o700, 0o600, 0o600]


def test_a_folder_that_others_use_for_something_else_is_refused_and_left_as_it_is(
    new_store: NewStore, folder: Path
) -> None:
    other = folder.with_name("shared")
    other.mkdir()
    other.chmod(0o777)
    (other / "notes").write_text("of somebody")
    with pytest.raises(StoreUnsupported, match="expected a new or an empty folder, or a store"):
        new_store(other).open()
    assert (mode(other), [path.name for path in other.iterdir()]) == (0o777, ["notes"])


@pytest.mark.parametrize("name", ["lost+found", "token"])
def test_a_folder_with_what_may_lie_in_a_new_store_is_taken(new_store: NewStore, folder: Path, name: str) -> None:
    other = folder.with_name("mounted")
    other.mkdir(mode=0o755)
    (other / name).mkdir() if name == "lost+found" else (other / name).touch(mode=0o600)
    new_store(other).open()
    assert mode(other) == 0o700


def test_parents_are_made_too(new_store: NewStore, tmp_path: Path) -> None:
    new_store(tmp_path / "a" / "b" / "store").open()
    assert mode(tmp_path / "a" / "b" / "store") == 0o700


def test_a_folder_below_a_symlink_can_be_used(new_store: NewStore, tmp_path: Path, said: Inputs) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = new_store(tmp_path / "link" / "store")
    store.open()
    store.commit(said(1, "hi"))
    assert (tmp_path / "real" / "store" / "runtime.sqlite3").exists()


def test_a_symlink_in_place_of_the_folder_is_refused(new_store: NewStore, folder: Path) -> None:
    folder.with_name("real").mkdir()
    folder.symlink_to("real")
    with pytest.raises(StoreUnsupported, match="expected a folder, not a symlink"):
        new_store().open()
    assert not list(folder.iterdir())


def test_a_file_in_place_of_the_folder_is_refused(new_store: NewStore, folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(StoreUnsupported, match="expected a folder"):
        new_store().open()
    assert folder.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(new_store: NewStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnsupported, match=r"^the store: Not a directory$"):
        new_store(tmp_path / "file" / "store").open()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(new_store: NewStore, folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, 12345, -1)
    with pytest.raises(StoreUnsupported, match="belongs to another user"):
        new_store().open()


@pytest.mark.parametrize(
    "name", ["lock", "runtime.sqlite3", "runtime.sqlite3-wal", "runtime.sqlite3-shm", "runtime.sqlite3-journal"]
)
def test_a_planted_symlink_is_refused_and_not_followed(
    new_store: NewStore, folder: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    target.chmod(0o644)
    folder.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(StoreUnsupported, match=f"{name}: expected a regular file, not a symlink"):
        new_store().open()
    assert (target.read_text(), mode(target)) == ("untouched", 0o644)


def test_a_planted_pipe_is_refused_at_once(new_store: NewStore, folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "lock")
    with pytest.raises(StoreUnsupported, match="lock: expected a regular file"):
        new_store().open()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_the_place_of_a_worker_folder_is_replaced_and_not_followed(
    new_store: NewStore, folder: Path, tmp_path: Path, kind: str
) -> None:
    store, victim = new_store(), tmp_path / "victim"
    store.open()
    victim.mkdir(mode=0o755)
    (folder / "workers").mkdir()
    place = folder / "workers" / worker_id(1)
    place.symlink_to(victim) if kind == "link" else place.write_text("no folder")

    made = store.store.data_dir.worker_folder(worker_id(1))

    assert made.is_dir()
    assert not made.is_symlink()
    assert (victim.stat().st_mode & 0o777, list(victim.iterdir())) == (0o755, [])


def test_a_link_in_the_place_of_all_worker_folders_is_refused(
    new_store: NewStore, folder: Path, tmp_path: Path
) -> None:
    store = new_store()
    store.open()
    (folder / "workers").symlink_to(tmp_path)
    with pytest.raises(StoreUnsupported, match="workers: expected a folder"):
        store.store.data_dir.worker_folder(worker_id(1))


def test_a_worker_folder_stays_as_the_worker_left_it(new_store: NewStore) -> None:
    store = new_store()
    store.open()
    made = store.store.data_dir.worker_folder(worker_id(1))
    (made / "note").write_text("mine")
    assert store.store.data_dir.worker_folder(worker_id(1)) == made
    assert (made / "note").read_text() == "mine"


def test_a_worker_that_is_deleted_during_a_look_at_the_folder_is_no_problem(folder: Path) -> None:
    owned = DataDir(folder)
    with owned:
        for number in (1, 2):
            owned.worker_folder(worker_id(number)).chmod(0o755)
        found = owned.problems()
        assert "worker-00000001 has the mode 755" in next(found)
        owned.remove_worker_folder(worker_id(2))
        assert list(found) == []


def test_a_token_is_made_once_with_256_bits(folder: Path) -> None:
    with DataDir(folder) as database:
        assert database.parent == folder
    owned = DataDir(folder)
    with owned:
        token, path = owned.read_or_make_token()
        assert owned.read_or_make_token() == (token, path)
    assert len(token) == 43
    assert (path.name, path.read_text()) == ("token", f"{token}\n")


@pytest.mark.parametrize("lax", [0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_refused_and_left_alone(folder: Path, lax: int) -> None:
    owned = DataDir(folder)
    with owned:
        (folder / "token").write_text("secret-secret\n")
        (folder / "token").chmod(lax)
        with pytest.raises(
            StoreUnsupported, match="token: expected a regular file of this user or root with mode 0600"
        ) as told:
            owned.read_or_make_token()
    assert "secret" not in str(told.value)
    assert mode(folder / "token") == lax


def test_a_token_behind_a_symlink_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch(mode=0o600)
    owned = DataDir(folder)
    with owned:
        (folder / "token").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreUnsupported, match=r"token: .*not a symlink"):
            owned.read_or_make_token()


@pytest.mark.parametrize(
    "text",
    ["", "\n", "two words of a token\n", "two lines\nof a token\n", "a-token-in-a-caf\xe9\n", "secret-of-15-ch"],
)
def test_a_token_that_no_header_can_carry_is_refused(folder: Path, text: str) -> None:
    owned = DataDir(folder)
    with owned:
        (folder / "token").write_text(text)
        (folder / "token").chmod(0o600)
        with pytest.raises(StoreUnsupported, match="token: expected one token of visible ASCII"):
            owned.read_or_make_token()


def test_a_second_store_of_the_same_process_is_refused(new_store: NewStore) -> None:
    first = new_store()
    first.open("runtime-mine")
    with pytest.raises(StoreInUse) as told:
        new_store().open()
    assert told.value.pid == os.getpid()
    first.close()
    assert (new_store().open()).runtime_id == "runtime-mine"


OWNER = """
import asyncio, sys
from pathlib import Path
from runtimed.store.sqlite import SqliteStore

async def own():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open(None)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(own())
"""


@pytest.fixture
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store open."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as found:
        assert found.stdout
        assert found.stdout.readline() == "open\n"
        yield found


def test_a_second_process_is_refused_told_the_owner_and_touches_nothing(
    new_store: NewStore, folder: Path, owner: subprocess.Popen[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(StoreInUse, match=f"in use by process {owner.pid}") as told:
        new_store().open()
    assert told.value.pid == owner.pid
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_store_whose_owner_was_killed_can_be_opened(new_store: NewStore, owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    new_store().open()


def test_a_child_inherits_neither_the_lock_nor_the_database(new_store: NewStore, folder: Path) -> None:
    new_store().open()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        held, inherited = _held_by("self", folder), _held_by(str(child.pid), folder)
        child.kill()
    assert {"lock", "runtime.sqlite3", "runtime.sqlite3-wal"} <= held
    assert not inherited


def _held_by(process: str, folder: Path) -> set[str]:
    """The names of the files in the folder that a process has open."""
    held = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):  # a child that is starting closes some meanwhile
            held.append(link.readlink())
    return {path.name for path in held if path.parent == folder}


def test_the_lock_is_free_while_a_child_of_its_last_owner_lives(new_store: NewStore) -> None:
    first = new_store()
    first.open()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        first.close()
        new_store().open()
        child.kill()


@pytest.mark.parametrize("emptied", [lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_a_database_that_was_emptied_is_not_taken_for_a_new_store(
    new_store: NewStore, folder: Path, emptied: Callable[[Path], object]
) -> None:
    store = new_store()
    store.open()
    store.store.data_dir.worker_folder(worker_id(1))
    store.close()
    emptied(folder / "runtime.sqlite3")
    before = {path.name: path.stat().st_size for path in folder.iterdir()}
    with pytest.raises(StoreUnsupported, match="a Runtime was in this folder"):
        new_store().open()
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == before


def test_a_folder_that_only_has_a_token_may_become_a_store(new_store: NewStore, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "token").write_text("a-token-of-the-operator-that-is-long-enough\n")
    (folder / "token").chmod(0o600)
    assert new_store().open().workers == []
