"""How much room a folder takes on its disk. Everything here blocks."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

MAX_ENTRIES = 5_000_000
MAX_DEPTH = 100
"""The most entries that are counted, and how deep folders may be nested; what is beyond does not count."""

MAX_LINKED = 100_000
"""The most files with several names that are remembered. Each name of a further one counts."""

STRETCH = 1_000
"""How many entries are counted before the caller is asked whether to go on."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def folder_size(folder: Path, is_cut: Callable[[], bool]) -> int | None:
    """Count the bytes that a folder takes on its disk, with all that is in it.

    Links are not followed and other file systems are not entered. A file with several names counts once. What this
    process may not read does not count.

    Args:
        folder: The folder; the path to it is trusted.
        is_cut: Called between two stretches of entries. Once it returns True, the count ends.

    Returns:
        The bytes; None if the count was cut or the folder does not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        top = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return None
    counting = _Count(top, is_cut)
    try:
        return counting.count()
    finally:
        counting.close()


@attrs.frozen
class _Level:
    """A folder that is being read: its descriptor, the entries that are left, and what closes both."""

    folder: int
    entries: Iterator["os.DirEntry[str]"]
    opened: contextlib.ExitStack


class _Count:
    """Goes down into each folder as it meets it: only the folders on the way to the current one are open."""

    def __init__(self, top: int, is_cut: Callable[[], bool]) -> None:
        self._is_cut = is_cut
        self._levels: list[_Level] = []
        self._linked: set[tuple[int, int]] = set()
        self._entries = 0
        self._bytes = 0
        self._open(top)
        found = os.fstat(top)
        self._device = found.st_dev
        self._add(found)

    def count(self) -> int | None:
        while self._levels and self._entries < MAX_ENTRIES:
            if self._entries % STRETCH == 0 and self._is_cut():
                return None
            self._step(self._levels[-1])
        return self._bytes

    def _step(self, level: _Level) -> None:
        entry = next(level.entries, None)
        if entry is None:
            self._levels.pop().opened.close()
            return
        self._entries += 1
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                self._add(found)
            elif found.st_dev == self._device:
                self._add(found)
                self._enter(level, entry.name)

    def _add(self, found: os.stat_result) -> None:
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            identity = found.st_dev, found.st_ino
            if identity in self._linked:
                return
            if len(self._linked) < MAX_LINKED:
                self._linked.add(identity)
        self._bytes += found.st_blocks * 512

    def _enter(self, level: _Level, name: str) -> None:
        """Open a folder. One that was replaced by something else meanwhile is left out."""
        if len(self._levels) >= MAX_DEPTH:
            return
        inner = os.open(name, _FOLDER, dir_fd=level.folder)
        if os.fstat(inner).st_dev == self._device:
            self._open(inner)
        else:
            os.close(inner)

    def _open(self, folder: int) -> None:
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, folder)
            entries = opened.enter_context(os.scandir(folder))
            self._levels.append(_Level(folder, entries, opened.pop_all()))

    def close(self) -> None:
        while self._levels:
            self._levels.pop().opened.close()
