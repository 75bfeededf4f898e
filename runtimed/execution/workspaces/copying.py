"""Copies: a plain copy of the workspace's folder for one Worker, and a repository that holds how it began."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from runtimed.execution.processes.confinement import View
from runtimed.execution.workspaces.git import Git, GitFailed, Place
from runtimed.execution.workspaces.pointers import MAX_POINTER_BYTES, POINTER
from runtimed.execution.workspaces.record import Prepared
from runtimed.execution.workspaces.repository import commit_of, find_repository, has_unsaved_commits, held_by
from runtimed.execution.workspaces.working_tree import WorkingTree
from runtimed.execution.workspaces.worktree import PREPARE_DEADLINE_S

MAX_DEPTH = 200
MAX_ENTRIES = 1_000_000
"""How deep a folder that is copied may be, and how much there may be in it."""

PIECE_BYTES = 1 << 20
BEGINNING = "refs/heads/beginning"
HELD = "held"
"""The file beside the beginning of a copy that lists the commits which its own repository had then."""

WHO = {"user.name": "runtimed", "user.email": "runtimed@localhost"}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o777


def copy_folder(source: Path, target: Path, is_cut: Callable[[], bool]) -> None:
    """Copy a folder. Blocks.

    Symbolic links are copied and never followed. What is neither a file, a folder nor a link is left out, and so is a
    `.git` file that leads out of the copy.

    Args:
        source: What to copy.
        target: What to make.
        is_cut: Is called now and then. Once it returns True, the copy ends early.

    Raises:
        OSError: It cannot be copied, or is too large.
    """
    target.mkdir(mode=0o700)
    outer, inner = os.open(source, _FOLDER), os.open(target, _FOLDER)
    try:
        _Copy(is_cut).folder(outer, inner, MAX_DEPTH)
    finally:
        os.close(outer)
        os.close(inner)


async def snapshot(git: Git, prepared: Prepared, git_dir: Path) -> Prepared:
    """Commit how a copy begins to a repository that is no part of it. Raises GitFailed."""
    made = Path(prepared.made or "")
    view = View(made, (made,), (git_dir,))
    init = ("init", "--quiet", "--template=", "--bare", "--initial-branch=beginning", str(git_dir))
    await git.run(Place(made, view=view), *init)
    place = await git.hardened(Place(made, git_dir, made, view=view))
    place = attrs.evolve(place, settings={**place.settings, **WHO, "core.bare": "false", "core.compression": "1"})
    add = ("add", "--all", "--ignore-errors", "--", ".")
    await git.run(place, *add, accepted=(0, 1), deadline_s=PREPARE_DEADLINE_S)
    tree = (await git.run(place, "write-tree", deadline_s=PREPARE_DEADLINE_S)).text
    base = (await git.run(place, "commit-tree", "-m", "beginning", tree)).text
    await git.run(place, "update-ref", BEGINNING, base)
    await asyncio.to_thread((git_dir / HELD).write_bytes, await _held_at_first(git, made))
    return attrs.evolve(prepared, git_dir=str(git_dir), work_tree=str(made), base=base)


async def is_unsaved(git: Git, prepared: Prepared) -> bool:
    """Return whether a copy has changed, or its own repository has got commits. Raises GitFailed or OSError."""
    if await WorkingTree(git, prepared).is_dirty():
        return True
    made = Path(prepared.made or "")
    own = await find_repository(git, made, made)
    if own is None:
        return False
    held = await asyncio.to_thread(Path(prepared.git_dir or "", HELD).read_bytes)
    return await has_unsaved_commits(git, Place(made, own.git_dir, made), held)


async def _held_at_first(git: Git, made: Path) -> bytes:
    """Return the commits in the repository of a new copy, each as a line `^ID`."""
    with contextlib.suppress(GitFailed):  # then all of them count as new
        own = await find_repository(git, made, made)
        if own is not None:
            place = Place(made, own.git_dir, made)
            head = await commit_of(git, place, "HEAD")
            return await held_by(git, place) + (b"" if head is None else f"^{head}\n".encode())
    return b""


class _Copy:
    """One copy, by descriptors: a folder that is replaced by a link meanwhile cannot lead it elsewhere."""

    def __init__(self, is_cut: Callable[[], bool]) -> None:
        self._is_cut = is_cut
        self._left = MAX_ENTRIES

    def folder(self, source: int, target: int, depth: int) -> None:
        with os.scandir(source) as entries:
            for entry in entries:
                self._left -= 1
                self._check_not_cut()
                if depth <= 0 or self._left < 0:
                    raise OSError(f"it is too large to copy: more than {MAX_DEPTH} deep, or {MAX_ENTRIES} entries")
                self._entry(entry, source, target, depth)
        os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode) & _MODE | stat.S_IRWXU)

    def _entry(self, entry: "os.DirEntry[str]", source: int, target: int, depth: int) -> None:
        if entry.is_symlink():
            os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=target)
        elif entry.is_dir(follow_symlinks=False):
            os.mkdir(entry.name, 0o700, dir_fd=target)
            with _opened(entry.name, source) as inner, _opened(entry.name, target) as copied:
                self.folder(inner, copied, depth - 1)
        elif entry.is_file(follow_symlinks=False):
            self._file(entry.name, source, target, depth)

    def _file(self, name: str, source: int, target: int, depth: int) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        with os.fdopen(descriptor, "rb") as read:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or (name == ".git" and _leads_out(read.peek(), MAX_DEPTH - depth)):
                return
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            with os.fdopen(made, "wb") as written:
                while piece := read.read(PIECE_BYTES):
                    self._check_not_cut()
                    written.write(piece)
                os.fchmod(made, stat.S_IMODE(found.st_mode) & _MODE)
            with contextlib.suppress(OSError):
                os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _check_not_cut(self) -> None:
        if self._is_cut():
            raise OSError("the copy was given up")


def _leads_out(content: bytes, depth: int) -> bool:
    """Return whether a `.git` file, so many folders below the top, points to a repository outside."""
    pointer = os.fsdecode(content[:MAX_POINTER_BYTES]).partition("\n")[0].removeprefix(POINTER)
    if pointer.startswith("/"):
        return True
    for part in pointer.split("/"):
        depth += -1 if part == ".." else 0 if part in {"", "."} else 1
        if depth < 0:
            return True
    return False


@contextlib.contextmanager
def _opened(name: str, place: int) -> Iterator[int]:
    descriptor = os.open(name, _FOLDER, dir_fd=place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
