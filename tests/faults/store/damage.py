"""A store without a daemon, and damaged copies of it."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

DATABASE = "runtime.sqlite3"
LOG = "runtime.sqlite3-wal"
SECTOR = 512


@dataclass(frozen=True)
class Copies:
    """Copies of one store, each in a new folder."""

    original: Path
    home: Path

    def make(self) -> Path:
        """Make another copy, and remove the previous one."""
        copy = self.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.original, copy)
        return copy


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def cut(path: Path, size: int) -> None:
    """Truncate a file."""
    with path.open("r+b") as file:
        file.truncate(size)


def blank(path: Path, place: int) -> None:
    """Zero the rest of a file's sector from `place` on, as if it had not been written."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(min(SECTOR - place % SECTOR, size - place)))


def places(path: Path, text: str, end: int | None = None) -> list[int]:
    """Return the places of a text in a file, up to `end`."""
    return [found.start() for found in re.finditer(re.escape(text.encode()), path.read_bytes()[:end])]
