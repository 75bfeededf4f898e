"""The small files in which git writes down where its other parts are. Everything here blocks."""

import os
import stat
from pathlib import Path

MAX_POINTER_BYTES = 8192
POINTER = "gitdir: "
"""What a `.git` file begins with."""


def first_line(path: Path) -> str | None:
    """Return the first line of a small regular file; None if it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.fsdecode(os.read(descriptor, MAX_POINTER_BYTES)).partition("\n")[0]
    finally:
        os.close(descriptor)
