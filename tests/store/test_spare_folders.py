"""Folders that were made before their Workers were known, and the Workers that take them over."""

from pathlib import Path

import pytest

from runtimed.model.identity import WorkerId, worker_id
from runtimed.store.data_dir import DataDir

FIRST, SECOND = worker_id(1), worker_id(2)
OTHER_SPARE = "warm-0123abcd"


@pytest.fixture
def owned(folder: Path) -> DataDir:
    """The folder of a store whose second Worker has a folder with a note."""
    owned = DataDir(folder)
    with owned:
        (owned.worker_folder(SECOND) / "note").write_text("of the second")
    return owned


@pytest.fixture
def spare(owned: DataDir) -> Path:
    """A spare folder with a note that the first Worker has adopted."""
    spare = owned.make_spare()
    (spare / "note").write_text("of the first")
    owned.adopt(FIRST, spare)
    return spare


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    (victim / "note").write_text("of somebody")
    return victim


def names(owned: DataDir) -> set[str]:
    return {path.name for path in owned.worker_folder(SECOND).parent.iterdir()}


def test_a_worker_that_adopts_a_spare_folder_has_it_under_the_name_that_it_had(owned: DataDir, folder: Path) -> None:
    owned.worker_folder(FIRST)
    spare = owned.make_spare()

    owned.adopt(FIRST, spare)

    assert owned.worker_folder(FIRST) == spare
    assert DataDir(folder).worker_folder(FIRST) == spare
    assert (folder / "workers" / FIRST).readlink() == Path(spare.name)
    assert spare.stat().st_mode & 0o777 == 0o700


def test_a_worker_with_files_adopts_nothing_and_keeps_them(owned: DataDir) -> None:
    spare = owned.make_spare()

    with pytest.raises(OSError, match="not empty"):
        owned.adopt(SECOND, spare)

    assert (owned.worker_folder(SECOND) / "note").read_text() == "of the second"
    assert owned.spares() == [spare]


def test_only_spare_folders_that_no_worker_has_adopted_are_spare(owned: DataDir, spare: Path, folder: Path) -> None:
    left = owned.make_spare()
    (folder / "workers" / "warm-other").mkdir()

    assert owned.spares() == [left]


def test_an_adopted_folder_that_is_gone_is_made_anew_under_its_name(owned: DataDir, spare: Path) -> None:
    (spare / "note").unlink()
    spare.rmdir()

    assert owned.worker_folder(FIRST) == spare
    assert list(spare.iterdir()) == []


def test_the_deletion_of_a_worker_removes_the_folder_that_it_adopted_and_no_other(
    owned: DataDir, spare: Path
) -> None:
    left = owned.make_spare()

    owned.remove_worker_folder(FIRST)

    assert names(owned) == {SECOND, left.name}
    assert (owned.worker_folder(SECOND) / "note").exists()


def test_a_deletion_that_was_cut_is_finished_by_the_next_one(owned: DataDir, spare: Path) -> None:
    owned.remove_worker_folder(FIRST, lambda: True)
    assert owned.worker_folder(FIRST) == spare
    assert owned.spares() == []

    owned.remove_worker_folder(FIRST)

    assert names(owned) == {SECOND}


def test_a_deletion_that_was_killed_before_the_name_went_is_finished_by_the_next_one(
    owned: DataDir, spare: Path
) -> None:
    owned.remove_worker_folder(WorkerId(spare.name))
    assert names(owned) == {FIRST, SECOND}

    owned.remove_worker_folder(FIRST)

    assert names(owned) == {SECOND}


@pytest.mark.parametrize(
    "target",
    [
        "{victim}",
        "../../victim",
        SECOND,
        "{workers}/{spare}",
        "../workers/{spare}",
        "{spare}/home",
        "warm-other",
        "warm-0123ABCD",
        ".",
        "..",
    ],
)
def test_a_link_that_leads_elsewhere_is_replaced_and_not_followed(
    owned: DataDir, folder: Path, victim: Path, target: str
) -> None:
    workers, spare = folder / "workers", owned.make_spare()
    (spare / "home").mkdir()
    (workers / FIRST).symlink_to(target.format(victim=victim, workers=workers, spare=spare.name))
    assert f"the folder workers/{FIRST} is a symlink" in str(list(owned.problems()))
    assert owned.spares() == [spare]

    made = owned.worker_folder(FIRST)
    owned.remove_worker_folder(FIRST)

    assert made == workers / FIRST
    assert names(owned) == {SECOND, spare.name}
    assert (spare / "home").exists()
    assert [path.read_text() for path in (workers / SECOND / "note", victim / "note")] == [
        "of the second",
        "of somebody",
    ]


def test_a_link_in_the_place_of_an_adopted_folder_is_not_followed(owned: DataDir, folder: Path, victim: Path) -> None:
    workers = folder / "workers"
    for target in (victim, Path(SECOND)):
        (workers / OTHER_SPARE).symlink_to(target)
        (workers / FIRST).symlink_to(OTHER_SPARE)

        made = owned.worker_folder(FIRST)
        assert not made.is_symlink()
        made.rmdir()
        made.symlink_to(target)
        owned.remove_worker_folder(FIRST)

        assert names(owned) == {SECOND}
    assert [(path / "note").exists() for path in (victim, workers / SECOND)] == [True, True]


def test_an_adopted_folder_is_no_problem_and_one_that_others_can_read_is(owned: DataDir, spare: Path) -> None:
    assert list(owned.problems()) == []

    spare.chmod(0o755)

    assert list(owned.problems()) == [f"the folder workers/{spare.name} has the mode 755: expected 700"]


def test_an_adopted_folder_that_is_to_be_kept_outlives_its_scratch_folder(tmp_path: Path) -> None:
    scratch = DataDir(tmp_path / "scratch", is_scratch=True)
    spare, left = scratch.make_spare(), scratch.make_spare()
    scratch.adopt(FIRST, spare)

    assert scratch.keep(FIRST) == spare
    scratch.remove_scratch()

    assert spare.is_dir()
    assert not left.exists()
