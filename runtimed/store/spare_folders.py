"""Folders that were made before their Workers were known. All functions block.

Such a folder keeps its name for good: programs know it by that. A Worker takes it over by a symlink: the name of
the Worker leads to the folder beside it. No other link is followed.
"""

import contextlib
import re
import secrets
from pathlib import Path

_SPARE = re.compile(r"warm-[0-9a-f]{8}")


def new_name() -> str:
    """Return a name for a spare folder."""
    return f"warm-{secrets.token_hex(4)}"


def taken_over(entry: Path) -> Path | None:
    """Return the folder that the entry of a Worker leads to, or None if it leads to none. It may be gone."""
    try:
        target = str(entry.readlink())
    except OSError:
        return None
    is_valid = _SPARE.fullmatch(target) and not _SPARE.fullmatch(entry.name)
    return entry.with_name(target) if is_valid else None


def take_over(entry: Path, spare: Path) -> None:
    """Make the entry of a Worker lead to a spare folder. An empty folder in its place is removed.

    Raises:
        OSError: There is something else in its place, such as a folder with files.
    """
    with contextlib.suppress(FileNotFoundError):
        entry.rmdir()
    entry.symlink_to(spare.name)


def spares(workers: Path) -> list[Path]:
    """Return the spare folders among those of Workers that no Worker has taken over."""
    entries = list(workers.iterdir())
    taken = {taken_over(entry) for entry in entries}
    return [entry for entry in entries if _SPARE.fullmatch(entry.name) and entry not in taken]
