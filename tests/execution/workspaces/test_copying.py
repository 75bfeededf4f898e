"""A copy has what the folder has, follows no link, and belongs to no repository outside of it."""

import os
import stat
from pathlib import Path

import pytest

from runtimed.execution.workspaces import copying
from runtimed.execution.workspaces.copying import copy_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_bytes(b"\0" * 3_000_000)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o4755)
    return folder


def test_files_links_and_modes_are_copied(source: Path, tmp_path: Path) -> None:
    (source / "link").symlink_to("run")
    (source / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(source / "pipe")

    copy_folder(source, tmp_path / "copy", lambda: False)

    copied = tmp_path / "copy"
    assert (copied / "deep" / "er" / "file").read_bytes() == b"\0" * 3_000_000
    assert stat.S_IMODE((copied / "run").stat().st_mode) == 0o755
    assert (copied / "link").readlink() == Path("run")
    assert (copied / "dangling").readlink() == tmp_path / "gone"
    assert not (copied / "pipe").exists()


@pytest.mark.parametrize(
    ("place", "pointer", "is_kept"),
    [
        (".", "/srv/repository/.git/worktrees/x", False),
        (".", "../repository/.git", False),
        ("deep", "../.git/modules/deep", True),
        ("deep", "er/../../.git/modules/deep", True),
        ("deep", "../../repository/.git", False),
        ("deep/er", "../../../repository/.git", False),
        ("deep/er", "../../.git/modules/er", True),
    ],
)
def test_a_git_file_is_copied_only_where_it_points_into_the_copy(
    source: Path, tmp_path: Path, place: str, pointer: str, is_kept: bool
) -> None:
    (source / place / ".git").write_text(f"gitdir: {pointer}\n")

    copy_folder(source, tmp_path / "copy", lambda: False)

    assert (tmp_path / "copy" / place / ".git").exists() == is_kept


def test_a_copy_that_is_given_up_or_too_large_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="given up"):
        copy_folder(source, tmp_path / "first", lambda: True)
    monkeypatch.setattr(copying, "MAX_ENTRIES", 3)

    with pytest.raises(OSError, match="too large to copy"):
        copy_folder(source, tmp_path / "second", lambda: False)


def test_a_copy_is_given_up_in_the_middle_of_a_large_file(source: Path, tmp_path: Path) -> None:
    answers = iter([False, False])

    with pytest.raises(OSError, match="given up"):
        copy_folder(source / "deep" / "er", tmp_path / "copy", lambda: next(answers, True))

    assert (tmp_path / "copy" / "file").stat().st_size < 3_000_000
