"""Removal of a folder and its whole content, of any depth, without touching anything outside. All functions block."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

MAX_FOLDERS = 10_000
"""The most folder names held in memory, plus one for each level. A larger folder is read several times."""

MAX_ENDS = 4
"""The most names from each end of a path that an error shows."""

_TOP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCKED = 0o700
Identity = tuple[int, int]


class NotRemoved(OSError):
    """Something could not be removed. `filename` is the path of the first such entry, `strerror` the reason."""


@attrs.define
class _Level:
    """A folder that is being emptied.

    Attributes:
        name: Its name in the folder above.
        identity: Its device and inode.
        folders: The folders in it that are still to be entered.
        taken: How many folders were listed since something in it was last removed. The next read skips as many.
        is_read: Everything in it has been listed.
        has_progress: Something in it was removed since the last read.
    """

    name: str
    identity: Identity
    folders: list[str] = attrs.field(factory=list)
    taken: int = 0
    is_read: bool = False
    has_progress: bool = True


def remove_folder(folder: Path, is_cut: Callable[[], bool] = lambda: False) -> None:
    """Remove a folder, or whatever has its name. Does nothing if there is no such entry.

    Everything that can be removed is removed. Symbolic links are removed and not followed. Other mounts are not
    entered. Folders without permissions for their owner get them first. The number of open descriptors does not
    depend on the depth.

    Args:
        folder: The path. Its parent is trusted and may contain symlinks.
        is_cut: Called regularly. Once it returns True, the removal ends early without an error.

    Raises:
        NotRemoved: Something could not be removed.
    """
    try:
        parent = os.open(folder.parent, _TOP)
    except FileNotFoundError:
        return
    try:
        removal = _Removal(parent, is_cut)
        removal.remove(folder.name)
        if removal.error is not None:
            raise removal.error
    finally:
        os.close(parent)


class _Removal:
    """Walks down and up through folders by descriptor. One folder is open at a time."""

    def __init__(self, parent: int, is_cut: Callable[[], bool]) -> None:
        self._parent = self._here = parent
        self._mount = _mount_of(parent)
        self._is_cut = is_cut
        self._levels: list[_Level] = []
        self._held = 0
        self.error: NotRemoved | None = None

    def remove(self, name: str) -> None:
        """Remove the entry of this name in the parent."""
        try:
            self._remove_entry(name, is_folder=stat.S_ISDIR(os.lstat(name, dir_fd=self._parent).st_mode))
            while self._levels and not self._is_cut():
                self._go_on(self._levels[-1])
        except FileNotFoundError:
            pass  # nothing is there, or somebody else removed it before us
        except OSError as error:
            self._note(error)
        finally:
            if self._here != self._parent:
                os.close(self._here)

    def _go_on(self, level: _Level) -> None:
        if level.folders:
            self._held -= 1
            self._remove_entry(level.folders.pop(), is_folder=True)
        elif not level.is_read:
            self._read(level)
        else:
            self._leave(level)

    def _read(self, level: _Level) -> None:
        """Remove the files of the current folder, and list the folders in it."""
        if level.has_progress:
            level.taken = 0
        level.has_progress = False
        passing, room = level.taken, max(1, (MAX_FOLDERS - self._held) // 2)
        with self._noted(), os.scandir(self._here) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    self._remove_entry(entry.name, is_folder=False)
                elif passing:
                    passing -= 1
                else:
                    self._take(level, entry.name)
                if len(level.folders) >= room or self._is_cut():
                    return
        level.is_read = True

    def _take(self, level: _Level, name: str) -> None:
        level.folders.append(name)
        level.taken += 1
        self._held += 1

    def _remove_entry(self, name: str, *, is_folder: bool) -> None:
        with self._noted(name):
            if is_folder:
                self._enter(name)
            else:
                os.unlink(name, dir_fd=self._here)
                self._progress()

    def _enter(self, name: str) -> None:
        place = os.open(name, _PLACE, dir_fd=self._here)
        try:
            if _mount_of(place) != self._mount:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            inner = _opened(place)
        finally:
            os.close(place)
        self._levels.append(_Level(name, _identity(inner)))
        self._move(inner)

    def _leave(self, level: _Level) -> None:
        """Go up to the folder above, and remove the folder that is empty now."""
        self._levels.pop()
        self._move(self._above())
        with self._noted(level.name):
            os.rmdir(level.name, dir_fd=self._here)
            self._progress()

    def _above(self) -> int:
        """Open the folder above. Raises OSError if it is not the one entered before: the current folder was moved."""
        if not self._levels:
            return self._parent
        above = os.open("..", _TOP, dir_fd=self._here)
        if _identity(above) != self._levels[-1].identity:
            os.close(above)
            raise OSError(errno.ESTALE, "a folder was moved while it was removed")
        return above

    def _move(self, there: int) -> None:
        if self._here != self._parent:
            os.close(self._here)
        self._here = there

    def _progress(self) -> None:
        if self._levels:
            self._levels[-1].has_progress = True

    @contextlib.contextmanager
    def _noted(self, *names: str) -> Iterator[None]:
        """Record an error and continue. An entry that is already gone is no error."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            self._note(error, *names)

    def _note(self, error: OSError, *names: str) -> None:
        if self.error is None:
            place = [*(level.name for level in self._levels), *names]
            if len(place) > 2 * MAX_ENDS:
                place[MAX_ENDS:-MAX_ENDS] = ["…"]
            self.error = NotRemoved(error.errno, error.strerror, "/".join(place))


def _opened(place: int) -> int:
    """Open a folder for reading and removal. A Worker may have taken these permissions from its own user."""
    mode = os.fstat(place).st_mode
    if stat.S_IMODE(mode) & _LOCKED != _LOCKED:
        with contextlib.suppress(PermissionError):  # an immutable one may be empty all the same
            Path(f"/proc/self/fd/{place}").chmod(stat.S_IMODE(mode) | _LOCKED)
    return os.open(".", _TOP, dir_fd=place)


def _identity(descriptor: int) -> Identity:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _mount_of(descriptor: int) -> str:
    """Return the mount that holds a descriptor, or only its device if the system does not report the mount."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return line
    return str(os.fstat(descriptor).st_dev)
