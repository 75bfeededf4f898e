"""Removing a folder: all of it goes, whatever it is, and nothing outside of it."""

import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimed.store import removal
from runtimed.store.removal import NotRemoved, remove_folder

LEVELS = 1200
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE = 0x10

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


def deepen(folder: Path, levels: int, name: str = "d") -> None:
    """Folders one in the other, with a file in each."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "workers" / "worker"
    made.mkdir(parents=True)
    (made / "note").write_text("mine")
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay as it is."""
    made = tmp_path / "outside"
    (made / "inner").mkdir(parents=True)
    (made / "precious").write_text("precious")
    (made / "precious").chmod(0o400)
    (made / "inner").chmod(0o500)
    before = sorted((path, path.lstat().st_mode) for path in made.rglob("*"))
    yield made
    assert sorted((path, path.lstat().st_mode) for path in made.rglob("*")) == before
    assert (made / "precious").read_text() == "precious"


def test_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_folder(tmp_path / "worker")
    remove_folder(tmp_path / "workers" / "worker")


def test_a_deep_folder_goes_with_a_few_descriptors(folder: Path) -> None:
    deepen(folder, LEVELS)
    (folder / "beside").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 8
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    try:
        remove_folder(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert not os.path.lexists(folder)


def test_links_go_and_where_they_lead_stays(folder: Path, outside: Path) -> None:
    (folder / "to a folder").symlink_to(outside)
    (folder / "to a file").symlink_to(outside / "precious")
    (folder / "to itself").symlink_to(folder)
    (folder / "to nowhere").symlink_to("nowhere")
    (folder / "hard").hardlink_to(outside / "precious")
    (folder / "inner").mkdir()
    (folder / "inner" / "up").symlink_to("..")

    remove_folder(folder)

    assert not os.path.lexists(folder)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_the_place_of_the_folder_goes(folder: Path, outside: Path, kind: str) -> None:
    shutil.rmtree(folder)
    if kind == "link":
        folder.symlink_to(outside)
    else:
        folder.write_text("no folder")

    remove_folder(folder)

    assert not os.path.lexists(folder)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that others can reach; pytest closes the one above `tmp_path` whenever a session begins."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o400, 0o500])
def test_closed_folders_go(reachable: Path, mode: int) -> None:
    folder = reachable / "workers" / "worker"
    (folder / "outer" / "inner").mkdir(parents=True)
    (folder / "outer" / "inner" / "file").write_text("x")
    for path in (folder / "outer" / "inner", folder / "outer", folder):
        path.chmod(mode)

    _as_nobody(folder.parent, remove_folder, folder)

    assert not os.path.lexists(folder)


def _as_nobody(owned: Path, work: Callable[..., None], *arguments: object) -> None:
    """Do work in a process that may not pass over modes; in this one where that is so already."""
    if os.geteuid():
        work(*arguments)
        return
    subprocess.run(["chown", "-R", "65534:65534", str(owned)], check=True)
    for parent in owned.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            work(*arguments)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_special_files_go_without_being_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))
    (folder / os.fsdecode(b"no \xff text")).write_text("x")
    (folder / "a\nline").mkdir()

    remove_folder(folder)

    assert not os.path.lexists(folder)


def test_a_wide_folder_is_read_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "MAX_FOLDERS", 3)
    for number in range(20):
        (folder / f"folder-{number}" / "inner").mkdir(parents=True)
        (folder / f"file-{number}").write_text("x")

    remove_folder(folder)

    assert not os.path.lexists(folder)


MEASURING = """
import sys, tracemalloc
from pathlib import Path
from runtimed.store import removal

removal.MAX_FOLDERS = int(sys.argv[2])
tracemalloc.start()
removal.remove_folder(Path(sys.argv[1]))
print(tracemalloc.get_traced_memory()[1])
"""


def test_wide_folders_one_in_the_other_take_no_more_memory_than_one(folder: Path) -> None:
    name, levels, width = "n" * 200, 30, 150
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        for number in range(width):
            os.mkdir(f"{number}{name}", dir_fd=here)
        last = [entry.name for entry in os.scandir(here) if entry.is_dir()][-1]
        inner = os.open(last, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)

    command = [sys.executable, "-c", MEASURING, str(folder), str(width)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)

    assert not os.path.lexists(folder)
    assert int(told.stdout) < levels * width * len(name) * 3 / 4


@as_root
def test_many_folders_that_cannot_be_removed_hide_none_behind_them(
    folder: Path, immutable: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "MAX_FOLDERS", 3)
    for number in range(40):
        (folder / f"{number}").mkdir()
    for number in range(0, 40, 2):
        immutable(folder / f"{number}")

    with pytest.raises(NotRemoved):
        remove_folder(folder)

    assert sorted(int(path.name) for path in folder.iterdir()) == list(range(0, 40, 2))


@as_root
def test_the_place_of_what_is_left_in_a_deep_folder_is_told_in_short(
    folder: Path, immutable: Callable[[Path], None]
) -> None:
    here = folder
    for number in range(10):
        here = here / f"{number}"
    here.mkdir(parents=True)
    immutable(here)

    with pytest.raises(NotRemoved) as caught:
        remove_folder(folder)

    assert caught.value.filename == "worker/0/1/2/…/6/7/8/9"


@pytest.fixture
def immutable() -> Iterator[Callable[[Path], None]]:
    """Makes files and folders immutable until the end of the test."""
    made: list[tuple[int, int]] = []

    def change(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            flags = struct.unpack("l", fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, struct.pack("l", 0)))[0]
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags | IMMUTABLE))
        except OSError as error:
            os.close(descriptor)
            pytest.skip(f"nothing can be made immutable here: {error.strerror}")
        made.append((descriptor, flags))

    yield change
    for descriptor, flags in made:
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags))
        os.close(descriptor)


@as_root
@pytest.mark.parametrize("kind", ["file", "folder", "full folder"])
def test_what_is_immutable_stays_and_is_told_and_all_else_goes(
    folder: Path, immutable: Callable[[Path], None], kind: str
) -> None:
    kept = folder / "a" / "kept"
    if kind == "file":
        kept.parent.mkdir()
        kept.write_text("kept")
    else:
        (kept / "inner").mkdir(parents=True) if kind == "full folder" else kept.mkdir(parents=True)
    for name in ("0", "z"):
        (folder / name / "inner").mkdir(parents=True)
        (folder / "a" / name).write_text("x")
    immutable(kept)

    with pytest.raises(NotRemoved) as caught:
        remove_folder(folder)

    assert caught.value.strerror == "Operation not permitted"
    assert str(caught.value.filename).startswith("worker/a/kept")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert left == ["a", "a/kept"] + (["a/kept/inner"] if kind == "full folder" else [])


@as_root
def test_a_mount_in_the_folder_is_not_entered(folder: Path, outside: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    (folder / "mounted").mkdir()
    (folder / "other").mkdir()
    script = (
        "import sys; from pathlib import Path; from runtimed.store.removal import *\n"
        "try: remove_folder(Path(sys.argv[1]))\n"
        "except NotRemoved as error: print(error.strerror, error.filename)"
    )
    mounting = 'mount --bind "$0" "$1/mounted" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mounting, str(outside), str(folder), sys.executable, script]
    told = subprocess.run(command, capture_output=True, text=True, check=True)

    assert told.stdout == "Device or resource busy worker/mounted\n"
    assert [path.name for path in folder.iterdir()] == ["mounted"]


def test_a_folder_that_is_moved_out_meanwhile_leads_nowhere_else(folder: Path, outside: Path) -> None:
    inner = folder / "a" / "b"
    (inner / "c").mkdir(parents=True)
    (inner / "file").write_text("x")

    def move_once_inside() -> bool:
        if inner.exists() and not (inner / "file").exists():
            inner.rename(outside / "b")
        return False

    with pytest.raises(NotRemoved, match="moved"):
        remove_folder(folder, move_once_inside)

    (outside / "b").rmdir()


def test_a_removal_that_is_cut_ends_early(folder: Path) -> None:
    for number in range(100):
        (folder / f"folder-{number}").mkdir()
    looks = iter(range(1000))

    remove_folder(folder, lambda: next(looks) > 150)

    assert 0 < len(list(folder.iterdir())) < 100
