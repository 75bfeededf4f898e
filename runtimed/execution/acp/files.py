"""The files that an agent reads and writes by asking for it. Everything here blocks."""

import os
from typing import TextIO

from runtimed.execution.acp.roots import PathRefused, Roots

MAX_FILE_BYTES = 256 << 20
"""The largest file that is read, be it in part."""

MAX_TEXT_CHARACTERS = 8 << 20
"""The longest text that is given or taken at once."""


def read_text(roots: Roots, path: str, line: int | None, limit: int | None) -> str:
    """The text of a file, from `line` on, counted from 1, at most `limit` lines. What is not UTF-8 becomes U+FFFD.

    Raises PathRefused, or OSError.
    """
    with roots.open(path, os.O_RDONLY) as descriptor:
        if os.fstat(descriptor).st_size > MAX_FILE_BYTES:
            raise PathRefused(f"{path!r} is larger than {MAX_FILE_BYTES} bytes")
        with open(descriptor, encoding="utf-8", errors="replace", newline="", closefd=False) as file:
            return _lines(file, path, max(line or 1, 1), limit)


def write_text(roots: Roots, path: str, text: str) -> None:
    """Make this the text of a file, which is made where there is none, with the folders that lead to it.

    Raises PathRefused, or OSError.
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
