"""The files that a job writes: each appears whole, or not at all."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from runtimectl.errors import UsageProblem


class OutputFile:
    """A file that is written beside its place, and put there by `close`. A device or a pipe is written directly.

    Args:
        option: The option that names the file, for errors.
        path: The file.

    Raises:
        UsageProblem: It cannot be written.
    """

    def __init__(self, option: str, path: str) -> None:
        self._place = Path(os.path.realpath(path))
        self._draft: Path | None = None
        try:
            if _is_special(self._place):
                self._file: IO[str] = self._place.open("w", encoding="utf-8", errors="replace")
            else:
                self._draft = self._place.with_name(f".{self._place.name}.{os.getpid()}")
                self._draft.unlink(missing_ok=True)
                self._file = self._draft.open("x", encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            raise UsageProblem(f"{option}: cannot write {path}: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Write text. Raises OSError."""
        self._file.write(text)

    def close(self) -> None:
        """Complete the file and put it in its place. Raises OSError."""
        self._file.flush()
        if self._draft is not None:
            os.fsync(self._file.fileno())
        self._file.close()
        if self._draft is not None:
            self._draft.replace(self._place)
            self._draft = None

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
        if other != option and not _is_special(Path(path)):
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


def _is_special(path: Path) -> bool:
    """Return whether a path is there and no regular file; a folder counts as a file, which cannot be written."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
