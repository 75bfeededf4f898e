"""The files that a job writes: each appears whole, or not at all."""

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runtimectl.errors import UsageProblem


class FileProblem(OSError):
    """A file cannot be written. Its text names the option and the file."""


_DESCRIPTOR = re.compile(r"/dev/std(?:out|err)|/(?:dev|proc/self)/fd/([0-9]{1,9})", re.ASCII)
_OPEN_FILES = "/proc/self/fd"


class OutputFile:
    """A file that is written without a name, and put in its place by `close`: a kill leaves nothing of it.

    Where the file system has no files without a name, it is written beside its place.

    A device, a pipe, and a file that is open under a name such as /dev/stderr are written directly.

    Args:
        option: The option that names the file, for errors.
        path: The file.

    Raises:
        UsageProblem: It cannot be written.
    """

    def __init__(self, option: str, path: str) -> None:
        self._place = Path(os.path.realpath(path))
        self._draft: Path | None = None
        self._name = f"{option}: cannot write {path}"
        descriptor = descriptor_of(path)
        try:
            if self._place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if descriptor is not None:
                self._file: IO[str] = os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace")
            elif is_special(self._place):
                self._file = self._place.open("w", encoding="utf-8", errors="replace")
            else:
                self._draft = self._place.with_name(f".{self._place.name}.{os.getpid()}")
                self._draft.unlink(missing_ok=True)
                opened = open_nameless(self._place.parent)
                self._has_name = opened is None
                if opened is None:
                    opened = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                self._file = os.fdopen(opened, "w", encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            raise UsageProblem(f"{self._name}: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Write text. Raises OSError."""
        with self._named():
            self._file.write(text)

    def close(self) -> None:
        """Complete the file and put it in its place. Raises OSError."""
        with self._named():
            self._file.flush()
            if self._draft is not None:
                os.fsync(self._file.fileno())
                if not self._has_name:
                    give_name(self._file.fileno(), self._draft)
            self._file.close()
            if self._draft is not None:
                self._draft.replace(self._place)
                self._draft = None

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileProblem(f"{self._name}: {error.strerror}") from None

    def abandon(self) -> None:
        """Remove what was written, and close the file."""
        self.discard()
        with suppress(OSError):
            self._file.close()

    def discard(self) -> None:
        """Remove what was written, unless the file is in its place. A signal handler may call it."""
        if self._draft is not None:
            with suppress(OSError):
                self._draft.unlink()


def open_files(paths: Mapping[str, str | None]) -> dict[str, OutputFile]:
    """Open the files that are given, by option.

    Raises:
        UsageProblem: One cannot be written, or two are the same.
    """
    given = {option: path for option, path in paths.items() if path is not None}
    places: dict[str, str] = {}
    for option, path in given.items():
        other = places.setdefault(os.path.realpath(path), option)
        if other != option and descriptor_of(path) is None and not is_special(Path(path)):
            raise UsageProblem(f"{option}: expected another file than that of {other}")
    files: dict[str, OutputFile] = {}
    try:
        for option, path in given.items():
            files[option] = OutputFile(option, path)
    except UsageProblem:
        for file in files.values():
            file.discard()
        raise
    return files


def open_nameless(folder: Path, mode: int = 0o666) -> int | None:
    """Return a descriptor of a new file without a name in a folder; None where there are none or none can get one."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, mode)
    except OSError:
        return None
    if Path(_OPEN_FILES, str(descriptor)).exists():
        return descriptor
    os.close(descriptor)
    return None


def give_name(descriptor: int, path: Path) -> None:
    """Give a file without a name this one, which must be free."""
    # os.link follows the link in /proc only if it gets a descriptor for relative paths, which this one is not.
    os.link(f"{_OPEN_FILES}/{descriptor}", path, src_dir_fd=descriptor)


def sync_folder(folder: Path) -> None:
    """Have the disk keep which files a folder has, unless this user cannot read it or its file system has no sync."""
    with suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(handle)


def descriptor_of(path: str) -> int | None:
    """Return the descriptor that a path such as /dev/stderr names, or None."""
    found = _DESCRIPTOR.fullmatch(path)
    if found is None:
        return None
    return int(found[1]) if found[1] else 1 if path.endswith("out") else 2


def is_special(path: Path) -> bool:
    """Return whether a path is there and no regular file; a folder counts as a file, which cannot be written."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
