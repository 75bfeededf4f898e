"""How the room that a folder takes is counted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed.execution.processes import folder_size as counting
from runtimed.execution.processes.folder_size import STRETCH, folder_size

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "worker"
    made.mkdir()
    return made


def _size(folder: Path) -> int | None:
    return folder_size(folder, lambda: False)


def _fill(path: Path, size: int = MIB) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def test_a_folder_has_the_size_that_du_tells(folder: Path) -> None:
    for number in range(50):
        _fill(folder / str(number % 7) / str(number % 3) / str(number), number * 1000)
    (folder / "empty").mkdir()

    told = subprocess.run(["du", "-s", "-x", "--block-size=1", str(folder)], capture_output=True, check=True).stdout

    assert _size(folder) == int(told.split()[0])


def test_a_sparse_file_counts_with_what_it_takes(folder: Path) -> None:
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert (_size(folder) or 0) < MIB


def test_a_file_with_several_names_counts_once(folder: Path) -> None:
    _fill(folder / "a")
    for number in range(10):
        (folder / f"link-{number}").hardlink_to(folder / "a")
    assert MIB <= (_size(folder) or 0) < 2 * MIB


def test_only_so_many_files_with_several_names_are_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_LINKED", 1)
    for name in ("a", "b"):
        _fill(folder / name)
        (folder / f"{name}-link").hardlink_to(folder / name)
    assert 3 * MIB <= (_size(folder) or 0) < 4 * MIB


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    _fill(tmp_path / "outside" / "file")
    (folder / "to-folder").symlink_to(tmp_path / "outside")
    (folder / "to-file").symlink_to(tmp_path / "outside" / "file")
    (folder / "to-itself").symlink_to(folder)
    (folder / "broken").symlink_to("nothing")
    assert (_size(folder) or 0) < MIB


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(OSError, match="link"):
        _size(tmp_path / "link")


def test_a_folder_that_is_gone_has_no_size(folder: Path) -> None:
    assert _size(folder / "nothing") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
def test_another_file_system_in_the_folder_does_not_count(folder: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    (folder / "mounted").mkdir()
    script = "import sys; from pathlib import Path; from runtimed.execution.processes.folder_size import *\n"
    script += "print(folder_size(Path(sys.argv[1]), lambda: False))"
    mounting = (
        'mount -t tmpfs tmpfs "$0/mounted" && head -c 3000000 /dev/zero >"$0/mounted/file" && exec "$1" -c "$2" "$0"'
    )
    command = ["unshare", "--mount", "sh", "-c", mounting, str(folder), sys.executable, script]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(told.stdout) < MIB


def test_what_is_nested_too_deeply_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_DEPTH", 3)
    _fill(folder / "1" / "2" / "counts")
    _fill(folder / "1" / "2" / "3" / "does not")
    assert MIB <= (_size(folder) or 0) < 2 * MIB


def test_a_count_ends_after_so_many_entries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_ENTRIES", 2)
    for number in range(5):
        _fill(folder / str(number))
    assert 2 * MIB <= (_size(folder) or 0) < 3 * MIB


def test_a_count_that_is_cut_has_no_result_and_leaves_nothing_open(folder: Path) -> None:
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    for number in range(2 * STRETCH):
        (inner / str(number)).touch()
    asked: list[int] = []

    def is_cut() -> bool:
        asked.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 the descriptors themselves
        return len(asked) > 1

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert folder_size(folder, is_cut) is None
    assert len(asked) == 2
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_folders_that_come_and_go_meanwhile_are_harmless(folder: Path) -> None:
    for number in range(3 * STRETCH):
        (folder / str(number)).mkdir()

    def remove_some() -> bool:
        for number in range(0, 3 * STRETCH, 2):
            if (folder / str(number)).exists():
                (folder / str(number)).rmdir()
        return False

    assert _size(folder) is not None
    assert folder_size(folder, remove_some) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_does_not_count(folder: Path) -> None:
    _fill(folder / "closed" / "file")
    (folder / "closed").chmod(0)
    try:
        assert (_size(folder) or 0) < MIB
    finally:
        (folder / "closed").chmod(0o700)
