"""Opening a folder below a root never leaves the root, with openat2 and without."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from runtimed.execution import beneath

Open = Callable[[int, PurePosixPath], int]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    top = tmp_path / "root"
    (top / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (top / "file").write_text("")
    (top / "inside").symlink_to("a/b")
    (top / "up").symlink_to("..")
    (top / "absolute").symlink_to(top / "a")
    (top / "out").symlink_to(tmp_path / "outside")
    descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def opened(how: Open, root: int, below: str) -> Path:
    descriptor = how(root, PurePosixPath(below))
    try:
        return beneath.real_path(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("how", [beneath.open_beneath, beneath.descend])
def test_folders_below_the_root_are_opened(how: Open, root: int, tmp_path: Path) -> None:
    assert opened(how, root, ".") == tmp_path / "root"
    assert opened(how, root, "a/b") == tmp_path / "root" / "a" / "b"


@pytest.mark.parametrize("how", [beneath.open_beneath, beneath.descend])
@pytest.mark.parametrize("below", ["..", "a/../..", "up", "up/outside", "out", "absolute", "file", "file/x", "gone"])
def test_what_is_no_folder_below_the_root_is_refused(how: Open, root: int, below: str) -> None:
    before = descriptors()

    with pytest.raises(OSError):  # noqa: PT011 the errno depends on the kernel
        how(root, PurePosixPath(below))

    assert descriptors() == before


def test_a_link_that_stays_below_is_followed_where_the_kernel_can_tell(root: int, tmp_path: Path) -> None:
    with pytest.raises(OSError):  # noqa: PT011 the errno depends on the kernel
        beneath.descend(root, PurePosixPath("inside"))

    assert opened(beneath.open_beneath, root, "inside") == tmp_path / "root" / "a" / "b"


def test_a_folder_that_was_removed_has_no_path(root: int, tmp_path: Path) -> None:
    descriptor = beneath.open_beneath(root, PurePosixPath("a/b"))
    (tmp_path / "root" / "a" / "b").rmdir()

    with pytest.raises(FileNotFoundError):
        beneath.real_path(descriptor)

    os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["with openat2", "without openat2"])
def has_openat2(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(beneath, "_SYS_OPENAT2", -1)
    return bool(request.param)


@pytest.mark.usefixtures("has_openat2")
def test_a_path_without_links_is_opened_whatever_it_leads_to(root: int, tmp_path: Path) -> None:
    top = tmp_path.resolve() / "root"
    for path in (top / "a" / "b", top / "file", Path("/")):
        descriptor = beneath.open_without_links(path, is_folder=False)
        assert beneath.real_path(descriptor) == path
        os.close(descriptor)


@pytest.mark.usefixtures("has_openat2")
@pytest.mark.parametrize("below", ["inside", "up", "absolute/b", "up/root/file", "gone", "file/x"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_path_with_a_link_anywhere_is_refused(root: int, tmp_path: Path, below: str, is_folder: bool) -> None:
    before = descriptors()

    with pytest.raises(OSError):  # noqa: PT011 the errno depends on the kernel
        beneath.open_without_links(tmp_path.resolve() / "root" / below, is_folder=is_folder)

    assert descriptors() == before
