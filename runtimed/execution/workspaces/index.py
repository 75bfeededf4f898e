"""A copy of the index of a working tree, so that looking at the tree changes nothing and sees everything."""

import asyncio
import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import attrs

from runtimed.execution.beneath import open_without_links
from runtimed.execution.workspaces.git import Git, GitFailed, Place

REFRESH_DEADLINE_S = 120.0
MAX_INDEX_BYTES = 1 << 30
"""The largest index that is copied."""

MAX_SKIPPED = 100_000
"""How many files may be in the tree that the index says to pass over."""

SKIPPED = b"S "
_REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.asynccontextmanager
async def own_index(git: Git, place: Place) -> AsyncIterator[Place]:
    """Provide a place with an index of its own, in which no file is marked as unchanged or as passed over.

    Args:
        git: Runs git.
        place: The working tree.

    Raises:
        GitFailed: It cannot be made.
        OSError: There is no room for it.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="runtimed-index-"))
    try:
        await asyncio.to_thread(_copy_index, place, folder / "index")
        found = attrs.evolve(place, index=folder / "index", view=place.reachable.writing(folder))
        top = attrs.evolve(found, cwd=place.work_tree or place.cwd)
        present = await _present(git, top)
        await git.run(top, "update-index", "--no-skip-worktree", "-z", "--stdin", stdin=present)
        await git.run(top, "update-index", "-q", "--really-refresh", accepted=(0, 1), deadline_s=REFRESH_DEADLINE_S)
        yield found
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _present(git: Git, top: Place) -> bytes:
    """Return the files that are there although the index says to pass over them, each with a NUL behind it."""
    found: list[bytes] = []
    rest = bytearray()

    def take(data: bytes) -> bool:
        *entries, last = (bytes(rest) + data).split(b"\0")
        rest[:] = last
        found.extend(entry.removeprefix(SKIPPED) for entry in entries if entry.startswith(SKIPPED))
        return len(found) <= MAX_SKIPPED

    await git.run(top, "ls-files", "-t", "-z", take=take)
    if len(found) > MAX_SKIPPED:
        raise GitFailed(f"the index passes over more than {MAX_SKIPPED} files")
    return b"".join(path + b"\0" for path in await asyncio.to_thread(_existing, top.cwd, found))


def _existing(top: Path, paths: Iterable[bytes]) -> list[bytes]:
    return [path for path in paths if os.path.lexists(os.path.join(os.fsencode(top), path))]  # noqa: PTH118 bytes


def _copy_index(place: Place, index: Path) -> None:
    """Copy the index of a working tree, if it has one. Links are not followed: they may lead out of the workspace."""
    try:
        folder = open_without_links(place.git_dir or place.cwd)
        try:
            descriptor = os.open("index", _REGULAR, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise GitFailed(f"its index cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as source, index.open("xb") as target:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_INDEX_BYTES:
            raise GitFailed(f"its index is no regular file of at most {MAX_INDEX_BYTES} bytes")
        shutil.copyfileobj(source, target, 1 << 20)
