"""The files of a Worker that its agent reads and writes through us. Everything here blocks."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

MAX_FILE_BYTES = 256 << 20
"""The largest file that is read, even in part."""

MAX_TEXT_CHARACTERS = 8 << 20
"""The longest text that is read or written at once."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A named pipe must not make us wait for its other end."""


class PathRefused(Exception):
    """A path is invalid, leads outside, or names no regular file; the text quotes it."""


class Roots:
    """The folders that an agent may use, with everything below them. All methods block.

    `..` and symbolic links are followed only if they stay inside.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folder.resolve() for folder in folders)

    def folder(self, asked: str) -> Path:
        """Resolve a path to a folder. Raises PathRefused."""
        root, below = self._place(asked)
        if not (root / below).is_dir():
            raise PathRefused(f"{asked!r} is not a folder")
        return root / below

    @contextmanager
    def open(self, asked: str, flags: int, *, make_folders: bool = False) -> Iterator[int]:
        """Open a regular file.

        Each step starts from the folder before and follows no link, so that a path that changes meanwhile can't lead
        outside.

        Args:
            asked: The absolute path.
            flags: Flags of `os.open`.
            make_folders: Make missing folders on the way.

        Yields:
            The descriptor, which is closed at the end.

        Raises:
            PathRefused: The path is invalid, leads outside, or names no regular file.
            OSError: It can't be opened.
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
        """Return the root that a path is in, and the rest of the path."""
        if not asked.startswith("/") or "\0" in asked:
            raise PathRefused(f"{asked!r} is not an absolute path")
        real = Path(os.path.realpath(asked))
        for root in self._folders:
            if real.is_relative_to(root):
                return root, real.relative_to(root)
        raise PathRefused(f"{asked!r} is outside of the folders of this Worker")


def read_text(roots: Roots, path: str, line: int | None, limit: int | None) -> str:
    """Read a text file. Bytes that are not UTF-8 become U+FFFD.

    Args:
        roots: Where files may be read.
        path: The absolute path.
        line: The first line to return, counted from 1.
        limit: The most lines to return.

    Raises:
        PathRefused: The path is refused, or the file or text is too large.
        OSError: It can't be read.
    """
    with roots.open(path, os.O_RDONLY) as descriptor:
        if os.fstat(descriptor).st_size > MAX_FILE_BYTES:
            raise PathRefused(f"{path!r} is larger than {MAX_FILE_BYTES} bytes")
        with open(descriptor, encoding="utf-8", errors="replace", newline="", closefd=False) as file:
            return _lines(file, path, max(line or 1, 1), limit)


def write_text(roots: Roots, path: str, text: str) -> None:
    """Write a text file. A missing file is made, with the folders that lead to it.

    Raises:
        PathRefused: The path is refused, or the text is too long.
        OSError: It can't be written.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise PathRefused(f"the text for {path!r} is longer than {MAX_TEXT_CHARACTERS} characters")
    with roots.open(path, os.O_WRONLY | os.O_CREAT, make_folders=True) as descriptor:
        os.ftruncate(descriptor, 0)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "replace"))


def _lines(file: TextIO, path: str, first: int, limit: int | None) -> str:
    taken: list[str] = []
    size, number = 0, 0
    while limit is None or number < first - 1 + limit:
        line = file.readline(MAX_TEXT_CHARACTERS + 1)
        if not line:
            break
        number += 1
        if number >= first:
            taken.append(line)
            size += len(line)
        if max(size, len(line)) > MAX_TEXT_CHARACTERS:
            raise PathRefused(f"{path!r}: more than {MAX_TEXT_CHARACTERS} characters: ask for fewer lines")
    return "".join(taken)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _descend(top: int, below: Path, flags: int, *, make_folders: bool) -> int:
    """Open a path relative to a folder, and make missing folders on the way if asked to."""
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
