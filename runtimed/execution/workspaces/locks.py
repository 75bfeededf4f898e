"""Remove the locks that a killed git has left in what was made for a Worker. Everything here blocks."""

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtimed.execution.beneath import open_without_links
from runtimed.execution.workspaces.pointers import first_line
from runtimed.execution.workspaces.record import Prepared
from runtimed.execution.workspaces.worktree import INITIALIZING

MAX_LOOKED_AT = 100_000
"""How many names below the refs of a clone are looked at."""

OWN_LOCKS = ("index.lock", "HEAD.lock", "ORIG_HEAD.lock", "config.worktree.lock")
LOCKS_OF_A_REPOSITORY = (*OWN_LOCKS, "config.lock", "packed-refs.lock", "shallow.lock")

log = logging.getLogger(__name__)


def remove_stale_locks(prepared: Prepared, age_s: float = 0.0) -> None:
    """Remove the locks of a workspace, unless a git process works there. A failure is logged.

    Args:
        prepared: The workspace.
        age_s: How old a lock has to be, in seconds. With 0 no program of its Worker may run.
    """
    _remove(prepared, _locks(prepared), age_s)


def remove_stale_branch_lock(prepared: Prepared) -> None:
    """Remove the lock of the branch that was to be made for a workspace, unless a git process works there.

    A failure is logged.
    """
    if prepared.branch and prepared.common_dir:
        _remove(prepared, [_branch_lock(prepared)], 0.0)


def _remove(prepared: Prepared, locks: Iterable[Path], age_s: float) -> None:
    try:
        stale = [lock for lock in locks if _is_file_of_age(lock, age_s)]
        for lock in stale if stale and not _is_in_use(prepared) else ():
            _unlink(lock)
            log.warning("removed a lock that a killed git has left", extra={"path": lock})
    except OSError as error:
        fields = {"workspace": prepared.name, "reason": error}
        log.warning("cannot remove the locks that a killed git has left", extra=fields)


def _unlink(lock: Path) -> None:
    """Remove a lock, unless a link leads to it: Workers can put one on its way."""
    with contextlib.suppress(FileNotFoundError):
        folder = open_without_links(lock.parent)
        try:
            os.unlink(lock.name, dir_fd=folder)
        finally:
            os.close(folder)


def _is_file_of_age(path: Path, age_s: float) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime >= age_s


def _locks(prepared: Prepared) -> Iterator[Path]:
    git_dir = _git_dir(prepared)
    if git_dir is None:
        return
    if prepared.mode != "worktree":
        yield from (git_dir / name for name in LOCKS_OF_A_REPOSITORY)
        yield from _locks_below(git_dir / "refs")
        return
    yield from (git_dir / name for name in OWN_LOCKS)
    yield _branch_lock(prepared)
    if first_line(git_dir / "locked") == INITIALIZING:
        yield git_dir / "locked"


def _git_dir(prepared: Prepared) -> Path | None:
    """Return what git keeps for a workspace alone, or None. A copy has what its source had, if that is in it."""
    if prepared.made is None or (prepared.git_dir is None and prepared.mode != "copy"):
        return None
    found = Path(prepared.made, ".git") if prepared.mode == "copy" else Path(prepared.git_dir or "")
    return found if found.is_dir() and not found.is_symlink() else None


def _branch_lock(prepared: Prepared) -> Path:
    return Path(prepared.common_dir or "") / "refs" / "heads" / f"{prepared.branch}.lock"


def _locks_below(folder: Path) -> Iterator[Path]:
    looked_at = 0
    for place, _, names in os.walk(folder):
        for name in names:
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                return
            if name.endswith(".lock"):
                yield Path(place) / name


def _is_in_use(prepared: Prepared) -> bool:
    """Return whether a git process starts from the workspace or from the repository that it belongs to."""
    repository = () if prepared.mode == "copy" else (prepared.common_dir, prepared.source)
    places = [path for path in (prepared.made, *repository) if path]
    return any(_starts_from(directory, places) for directory in _directories_of_git())


def _starts_from(directory: str, places: Iterable[str]) -> bool:
    return any(directory == place or directory.startswith(f"{place}/") for place in places)


def _directories_of_git() -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if (process / "comm").read_text(errors="replace").startswith("git"):
                    yield str((process / "cwd").readlink())
