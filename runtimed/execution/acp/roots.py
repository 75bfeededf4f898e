"""The folders that a Worker's agent may use, and the way from a path to something in them."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A named pipe must not make us wait for its other end."""


class PathRefused(Exception):
    """A path that is none, leads elsewhere, or to something that is no file; the text quotes what was asked for."""


class Roots:
    """Whole folders, with all that is below them. `..` and symbolic links are followed only where they stay inside.

    All methods block.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folder.resolve() for folder in folders)

    def folder(self, asked: str) -> Path:
        """The folder that a path names, with nothing of it a link. Raises PathRefused."""
        root, below = self._place(asked)
        if not (root / below).is_dir():
            raise PathRefused(f"{asked!r} is not a folder")
        return root / below

    @contextmanager
    def open(self, asked: str, flags: int, *, make_folders: bool = False) -> Iterator[int]:
        """A descriptor of the regular file that a path names. Raises PathRefused, or OSError.

        Every step is taken from the folder before, and over no link, whatever happens to the path meanwhile.
        """
        root, below = self._place(asked)
        if below == Path():
            raise PathRefused(f"{asked!r} is a folder")
        with _closing(os.open(root, _FOLDER)) as top:
            descriptor = _descend(top, below, flags | _FILE, make_folders=make_folders)
        with _closing(descriptor):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PathRefused(f"{asked!r} is not a regular file")
            yield descriptor

    def _place(self, asked: str) -> tuple[Path, Path]:
        """The root that a path is in, and the rest of the way."""
        if not asked.startswith("/") or "\0" in asked:
            raise PathRefused(f"{asked!r} is not an absolute path")
        real = Path(os.path.realpath(asked))
        for root in self._folders:
            if real.is_relative_to(root):
                return root, real.relative_to(root)
        raise PathRefused(f"{asked!r} is outside of the folders of this Worker")


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _descend(top: int, below: Path, flags: int, *, make_folders: bool) -> int:
    """Open what is `below` a folder; the folders on the way are made where that is asked for."""
    here = os.dup(top)
    try:
        for name in below.parts[:-1]:
            there = _step(here, name, make_folder=make_folders)
            os.close(here)
            here = there
        return os.open(below.name, flags, 0o666, dir_fd=here)
    finally:
        os.close(here)


def _step(here: int, name: str, *, make_folder: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=here)
    except FileNotFoundError:
        if not make_folder:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=here)
    return os.open(name, _FOLDER, dir_fd=here)
