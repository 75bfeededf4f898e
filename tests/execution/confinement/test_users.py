import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtimed.execution.confinement.users import Users, acting_as, give
from runtimed.execution.processes.confinement import ConfinementRefused
from runtimed.model.identity import WorkerId
from tests.execution.conftest import DEADLINE_S

FIRST, SECOND, THIRD = (WorkerId(f"worker-{number:08x}") for number in (1, 2, 3))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


def test_each_worker_gets_a_user_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    users = Users(range(100_000, 100_010), tmp_path / "workers")
    assert [users.of(FIRST), users.of(SECOND), users.of(FIRST)] == [100_000, 100_001, 100_000]


def test_a_number_is_not_given_again_while_others_are_free(tmp_path: Path) -> None:
    users = Users(range(100_000, 100_003), tmp_path / "workers")
    assert users.of(FIRST) == 100_000
    users.forget(FIRST)
    assert [users.of(SECOND), users.of(THIRD), users.of(FIRST)] == [100_001, 100_002, 100_000]


def test_workers_that_are_confined_at_once_get_different_users(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"other-{number}" / "home").mkdir(parents=True)
    workers = [WorkerId(f"worker-{number:08x}") for number in range(8)]
    users, together = Users(range(100_000, 100_008), tmp_path), threading.Barrier(len(workers))

    def user_of(worker: WorkerId) -> int:
        together.wait(DEADLINE_S)
        return users.of(worker)

    with ThreadPoolExecutor(len(workers)) as threads:
        found = list(threads.map(user_of, workers))

    assert sorted(found) == list(range(100_000, 100_008))


def test_a_range_without_free_numbers_is_told(tmp_path: Path) -> None:
    users = Users(range(100_000, 100_001), tmp_path / "workers")
    users.of(FIRST)
    with pytest.raises(ConfinementRefused, match=r"sandbox\.uids: all 1 numbers"):
        users.of(SECOND)


def test_a_worker_takes_over_the_user_of_a_program_that_was_started_ahead(tmp_path: Path) -> None:
    users = Users(range(100_000, 100_010), tmp_path / "workers")
    spare = users.of(WorkerId("warm-1"))
    users.rename(WorkerId("warm-1"), FIRST)
    assert users.of(FIRST) == spare
    assert users.of(WorkerId("warm-1")) != spare


@needs_root
def test_the_owner_of_a_home_says_which_user_a_worker_has_after_a_restart(tmp_path: Path) -> None:
    home = tmp_path / SECOND / "home"
    home.mkdir(parents=True)
    os.chown(home, 100_004, 100_004)
    users = Users(range(100_000, 100_010), tmp_path)
    assert users.of(SECOND) == 100_004
    assert users.of(FIRST) == 100_005


@needs_root
def test_a_folder_is_given_with_all_that_is_in_it_and_nothing_that_it_links_to(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    (folder / "inner" / "most").mkdir(parents=True)
    outside.mkdir()
    for file in (outside / "file", folder / "inner" / "file", folder / "named twice"):
        file.write_text("text")
    (folder / "link").symlink_to(outside)
    (outside / "second name").hardlink_to(folder / "named twice")
    give(folder, 100_000)
    given = [folder, folder / "inner", folder / "inner" / "most", folder / "inner" / "file", folder / "link"]
    assert {path.lstat().st_uid for path in given} == {100_000}
    assert {path.lstat().st_uid for path in (outside, outside / "file", outside / "second name")} == {0}


@needs_root
def test_a_folder_can_be_given_back(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    give(tmp_path / "folder", 100_000)
    give(tmp_path / "folder", 0)
    assert (tmp_path / "folder" / "file").stat().st_uid == 0


@needs_root
def test_files_are_accessed_as_a_user_until_the_end_of_the_context(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    private = tmp_path / "private"
    private.touch(mode=0o600)
    folder = os.open(tmp_path, os.O_PATH)
    try:
        with acting_as(100_000):
            os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
            with pytest.raises(PermissionError):
                os.open("private", os.O_RDONLY, dir_fd=folder)
        os.close(os.open("private", os.O_RDONLY, dir_fd=folder))
    finally:
        os.close(folder)
    assert (tmp_path / "made").stat().st_uid == 100_000
