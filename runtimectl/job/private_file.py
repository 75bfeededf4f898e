"""A file of bytes for its user alone, which appears whole or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runtimectl.errors import UsageProblem
from runtimectl.job.files import descriptor_of, give_name, open_nameless, sync_folder

PRIVATE = 0o600


class PrivateFile:
    """A file with mode 0600 that is written without a name, and put in its place by `close`.

    A kill leaves nothing of it. Where the file system has no files without a name, it is written beside its place. A
    device, a pipe of this user or root, and an open file, by a name such as /dev/stdout, are written directly. A path
    that ends at a symbolic link is refused, and so is a pipe of another user: others may have put it there.

    Args:
        path: The file.

    Attributes:
        is_direct: Whether what is written is out of hand at once.

    Raises:
        UsageProblem: It cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._has_name = False
        descriptor = descriptor_of(path)
        try:
            self._place = _place_of(path)
            self._draft = self._place.with_name(f".{self._place.name}.{os.getpid()}")
            self.is_direct = descriptor is not None or _is_special(self._place)
            if descriptor is not None:
                self._file: IO[bytes] = os.fdopen(os.dup(descriptor), "wb")
            elif self.is_direct:
                self._file = os.fdopen(_open_special(self._place), "wb")
            else:
                self._file = os.fdopen(self._open_new(), "wb")
        except OSError as error:
            raise UsageProblem(f"cannot write {path}: {error.strerror}") from None

    def write(self, data: bytes) -> None:
        """Write bytes. Raises OSError, whose text names the file."""
        with self._named():
            self._file.write(data)

    def close(self) -> None:
        """Complete the file and put it in its place. Raises OSError, whose text names the file."""
        with self._named():
            self._file.flush()
            if not self.is_direct:
                os.fsync(self._file.fileno())
                if not self._has_name:
                    give_name(self._file.fileno(), self._draft)
                    self._has_name = True
                self._draft.replace(self._place)
                self._has_name = False
                sync_folder(self._place.parent)
            self._file.close()

    def abandon(self) -> None:
        """Remove what was written, unless the file is in its place."""
        if self._has_name:
            with suppress(OSError):
                self._draft.unlink()
        with suppress(OSError):
            self._file.close()

    def _open_new(self) -> int:
        self._draft.unlink(missing_ok=True)
        nameless = open_nameless(self._place.parent, PRIVATE)
        if nameless is not None:
            os.fchmod(nameless, PRIVATE)
            return nameless
        self._has_name = True
        return os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"{self._path}: {error.strerror}") from None


def _place_of(path: str) -> Path:
    """Return a path without links in its folder. Raises OSError if it is one of a folder."""
    folder, name = os.path.split(path)
    place = Path(os.path.realpath(folder), name)
    if name in {"", ".", ".."} or place.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return place


def _is_special(place: Path) -> bool:
    """Return whether a path is there and no regular file. Raises OSError if the file is not to be written."""
    try:
        found = place.lstat()
    except FileNotFoundError:
        return False
    _check_kind(found)
    return not stat.S_ISREG(found.st_mode)


def _open_special(place: Path) -> int:
    descriptor = os.open(place, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        _check_kind(os.fstat(descriptor))  # it may be another one by now
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_kind(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link; name the file itself")
    if stat.S_ISFIFO(found.st_mode) and found.st_uid not in {os.geteuid(), 0}:
        raise OSError(errno.EPERM, "it is a pipe of another user")
