import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtimed.execution.confinement.users import Users, acting_as, give
from runtimed.execution.processes.confinement import ConfinementRefused

FIRST, SECOND, THIRD = (Path(f"worker-{number:08x}") for number in (1, 2, 3))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


def give_path(folder: Path, uid: int) -> None:
    descriptor = os.open(folder, os.O_PATH)
    try:
        give(descriptor, uid)
    finally:
        os.close(descriptor)


def test_each_worker_gets_a_user_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    users = Users(range(700_100_000, 700_100_010), tmp_path / "workers")
    assert [users.of(FIRST), users.of(SECOND), users.of(FIRST)] == [700_100_001, 700_100_002, 700_100_001]


def test_a_number_is_given_again_once_the_range_has_been_through(tmp_path: Path) -> None:
    numbers = range(700_100_000, 700_100_003)
    given = []
    for number in range(1, 7):
        users = Users(numbers, tmp_path / "workers")  # as after a restart
        folder = Path(f"worker-{number:08x}")
        given.append(users.of(folder))
        users.forget(folder)
    assert given == [700_100_001, 700_100_002, 700_100_000] * 2


def test_a_number_is_not_given_again_before_its_worker_is_forgotten(tmp_path: Path) -> None:
    users = Users(range(700_100_000, 700_100_002), tmp_path / "workers")
    assert [users.of(FIRST), users.of(SECOND)] == [700_100_001, 700_100_000]
    users.forget(SECOND)
    assert users.of(THIRD) == 700_100_000


@needs_root
@pytest.mark.parametrize("first", [700_200_000, 3_000_200_001])
def test_a_number_is_not_given_while_a_process_of_it_is_left(tmp_path: Path, first: int) -> None:
    # A range that no other test has: they may run at the same time, and a process counts for all of them.
    users = Users(range(first, first + 3), tmp_path / "workers")
    with subprocess.Popen(["sleep", "60"], user=first + 1) as process:
        assert users.of(FIRST) == first + 2
        process.kill()


def test_workers_that_come_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    users = Users(range(700_100_000, 700_100_064), tmp_path / "workers")
    same = [Path(f"worker-{64 * number:08x}") for number in range(1, 65)]
    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(users.of, same))) == 64


def test_a_range_without_free_numbers_is_told(tmp_path: Path) -> None:
    users = Users(range(700_100_000, 700_100_001), tmp_path / "workers")
    users.of(FIRST)
    with pytest.raises(ConfinementRefused, match=r"sandbox\.uids: all 1 numbers"):
        users.of(SECOND)


@needs_root
def test_the_owner_of_a_home_says_which_user_a_worker_has_after_a_restart(tmp_path: Path) -> None:
    home = tmp_path / SECOND / "home"
    home.mkdir(parents=True)
    os.chown(home, 700_100_004, 700_100_004)
    users = Users(range(700_100_000, 700_100_010), tmp_path)
    assert users.of(SECOND) == 700_100_004
    assert users.of(FIRST) == 700_100_001
    assert users.of(Path("worker-00000004")) == 700_100_005


@needs_root
def test_a_folder_that_a_worker_has_adopted_has_one_user_which_is_free_again_once_it_is_gone(tmp_path: Path) -> None:
    adopted = tmp_path / "warm-00000004"
    (adopted / "home").mkdir(parents=True)
    os.chown(adopted / "home", 700_100_001, 700_100_001)
    (tmp_path / FIRST).symlink_to(adopted.name)
    users = Users(range(700_100_000, 700_100_002), tmp_path)
    assert users.of(adopted) == 700_100_001
    assert users.of(SECOND) == 700_100_000
    users.forget(adopted)
    assert users.of(THIRD) == 700_100_001


@needs_root
def test_a_folder_is_given_with_all_that_is_in_it_and_nothing_that_it_links_to(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    (folder / "inner" / "most").mkdir(parents=True)
    outside.mkdir()
    for file in (outside / "file", folder / "inner" / "file", folder / "named twice"):
        file.write_text("text")
    (folder / "link").symlink_to(outside)
    (outside / "second name").hardlink_to(folder / "named twice")
    give_path(folder, 700_100_000)
    given = [folder, folder / "inner", folder / "inner" / "most", folder / "inner" / "file", folder / "link"]
    assert {path.lstat().st_uid for path in given} == {700_100_000}
    assert {path.lstat().st_uid for path in (outside, outside / "file", outside / "second name")} == {0}


@needs_root
def test_a_folder_can_be_given_back(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    give_path(tmp_path / "folder", 700_100_000)
    give_path(tmp_path / "folder", 0)
    assert (tmp_path / "folder" / "file").stat().st_uid == 0


@needs_root
def test_files_are_accessed_as_a_user_until_the_end_of_the_context(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    private = tmp_path / "private"
    private.touch(mode=0o600)
    folder = os.open(tmp_path, os.O_PATH)
    try:
        with acting_as(700_100_000):
            os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
            with pytest.raises(PermissionError):
                os.open("private", os.O_RDONLY, dir_fd=folder)
        os.close(os.open("private", os.O_RDONLY, dir_fd=folder))
    finally:
        os.close(folder)
    assert (tmp_path / "made").stat().st_uid == 700_100_000
