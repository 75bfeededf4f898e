"""A patch is bounded by leaving out whole files, however it arrives."""

import pytest

from runtimed.execution.workspaces.patch import PatchFilter

SMALL = b"diff --git a/s b/s\n@@ -1 +1 @@\n-a\n+diff --git a/not b/not\n"
LARGE = b"diff --git a/l b/l\n@@ -1 +1 @@\n" + b"+ndiff --git x\n" * 40
LAST = b"diff --git a/z b/z\n+z"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 12, 64, 10_000])
def test_files_that_do_not_fit_are_left_out_whole_and_counted(size: int) -> None:
    patch = SMALL + LARGE + SMALL + LARGE + LAST
    kept = PatchFilter(room=200)

    for start in range(0, len(patch), size):
        assert kept.take(patch[start : start + size])

    found = kept.result(left_out=3)
    assert found.patch == SMALL + SMALL + LAST
    assert found.left_out == 2 + 3


@pytest.mark.parametrize("size", [1, 5, 11, 10_000])
def test_a_patch_that_fits_is_kept_as_it_is(size: int) -> None:
    patch = SMALL + LARGE + LAST + b"\n"
    kept = PatchFilter()

    for start in range(0, len(patch), size):
        kept.take(patch[start : start + size])

    assert kept.result(0).patch == patch
    assert kept.result(0).left_out == 0
