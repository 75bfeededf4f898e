"""The files of a Worker that its agent reads and writes through us. Everything here blocks."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import TextIO

from runtimed.execution.processes.confinement import FileRules

MAX_FILE_BYTES = 256 << 20
"""The largest file that is read, even in part."""

MAX_TEXT_CHARACTERS = 8 << 20
"""The longest text that is read or written at once."""

MAX_TURNS = 40
"""How many links and `..` a path may have."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A named pipe must not make us wait for its other end."""

_IS_LINK = {errno.ELOOP, errno.ENOTDIR}
"""What opening a link fails with where it is not followed."""


class PathRefused(Exception):
    """A path is invalid, leads outside, or names no regular file; the text quotes it."""


class Roots:
    """The folders that an agent may use, with everything below them. All methods block.

    `..` and symbolic links are followed only if they stay inside. Files are opened as the user of the agent.

    Args:
        folders: The folders.
        rules: What the programs of the Worker may do with files; None if nothing confines them.
    """

    def __init__(self, folders: Sequence[Path], rules: FileRules | None = None) -> None:
        self._folders = {folder: folder.resolve() for folder in folders}
        self._folders |= {folder: folder for folder in tuple(self._folders.values())}
        self._rules = rules

    def folder(self, asked: str) -> Path:
        """Resolve a path to a folder. Raises PathRefused."""
        try:
            descriptor, root, below = self._open(asked, _FOLDER)
        except OSError:
            raise PathRefused(f"{asked!r} is not a folder") from None
        os.close(descriptor)
        return root / below

    @contextmanager
    def open(self, asked: str, flags: int) -> Iterator[int]:
        """Open a regular file, and act as the user of the agent until it is closed: so its quota holds as well.

        Args:
            asked: The absolute path.
            flags: Flags of `os.open`. With O_CREAT missing folders on the way are made, too.

        Yields:
            The descriptor, which is closed at the end.

        Raises:
            PathRefused: The path is invalid, leads outside, or names no regular file.
            OSError: It can't be opened.
        """
        descriptor, root, _ = self._open(asked, flags | _FILE)
        with _closing(descriptor), self._acting(root):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PathRefused(f"{asked!r} is not a regular file")
            yield descriptor

    def _open(self, asked: str, flags: int) -> tuple[int, Path, PurePosixPath]:
        """Open what a path leads to, and return the root that has it and its path below that, without links."""
        if not asked.startswith("/") or "\0" in asked:
            raise PathRefused(f"{asked!r} is not an absolute path")
        path = PurePosixPath(asked)
        for _ in range(MAX_TURNS):
            root, below = self._place(asked, path)
            self._check(asked, root / below, writing=bool(flags & os.O_CREAT))
            with _closing(os.open(root, _FOLDER)) as top, self._acting(root):
                found = _descend(top, below, flags)
            if isinstance(found, int):
                return found, root, below
            path = PurePosixPath(root) / found
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _place(self, asked: str, path: PurePosixPath) -> tuple[Path, PurePosixPath]:
        """Return the root that a path is in, and the rest of the path. No link outside of a root is looked at."""
        way, parts = Path("/"), path.parts[1:]
        for number, part in enumerate((*parts, "")):
            if part != ".." and way in self._folders:
                return self._folders[way], PurePosixPath(*parts[number:])
            way = way.parent if part == ".." else way / part
        raise PathRefused(f"{asked!r} is outside of the folders of this Worker")

    def _check(self, asked: str, path: Path, *, writing: bool) -> None:
        if self._rules is not None and not self._rules.allows(path, writing=writing):
            raise PathRefused(f"{asked!r} cannot be {'written to' if writing else 'read'} by this Worker")

    def _acting(self, root: Path) -> contextlib.AbstractContextManager[None]:
        return nullcontext() if self._rules is None else self._rules.acting(root)


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
    with roots.open(path, os.O_WRONLY | os.O_CREAT) as descriptor:
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


def _descend(top: int, below: PurePosixPath, flags: int) -> int | PurePosixPath:
    """Open a path relative to a folder, each step from the folder before, so that a change cannot lead outside.

    Returns:
        The descriptor, or at a link or a `..` where the path goes on: relative to the folder, or absolute.
    """
    here, parts = os.dup(top), below.parts or (".",)
    try:
        for number, name in enumerate(parts):
            before, rest = parts[:number], parts[number + 1 :]
            if name == "..":
                return PurePosixPath(*before[:-1], *rest) if before else PurePosixPath("..", *rest)
            try:
                there = _step(here, name, flags) if rest else os.open(name, flags, 0o666, dir_fd=here)
            except OSError as error:
                return PurePosixPath(*before, _target(error, name, here), *rest)
            os.close(here)
            here = there
        return os.dup(here)
    finally:
        os.close(here)


def _step(here: int, name: str, flags: int) -> int:
    """Open the next folder, and make it first if it is missing on the way to a file that is made."""
    try:
        return os.open(name, _FOLDER, dir_fd=here)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=here)
    return os.open(name, _FOLDER, dir_fd=here)


def _target(error: OSError, name: str, here: int) -> str:
    """Return where a link leads that could not be opened. Raises the error if it is no link."""
    if error.errno not in _IS_LINK:
        raise error
    try:
        return os.readlink(name, dir_fd=here)
    except OSError:
        raise error from None
