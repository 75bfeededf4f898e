"""A file of bytes for its user alone, which appears whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runtimectl.errors import UsageProblem
from runtimectl.job.files import descriptor_of, give_name, is_special, open_nameless, sync_folder

PRIVATE = 0o600


class PrivateFile:
    """A file with mode 0600 that is written without a name, and put in its place by `close`.

    A kill leaves nothing of it. Where the file system has no files without a name, it is written beside its place. A
    device, a pipe, and a file that is open under a name such as /dev/stdout are written directly.

    Args:
        path: The file.

    Attributes:
        is_direct: Whether what is written is out of hand at once.

    Raises:
        UsageProblem: It cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._place = Path(os.path.realpath(path))
        self._draft = self._place.with_name(f".{self._place.name}.{os.getpid()}")
        self._path = path
        descriptor = descriptor_of(path)
        self.is_direct = descriptor is not None or is_special(self._place)
        self._has_name = False
        try:
            if self._place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if descriptor is not None:
                self._file: IO[bytes] = os.fdopen(os.dup(descriptor), "wb")
            elif self.is_direct:
                self._file = self._place.open("wb")
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
