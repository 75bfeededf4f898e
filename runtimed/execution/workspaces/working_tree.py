"""Ask what was changed in the working tree of a workspace."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from runtimed.execution.processes.confinement import View
from runtimed.execution.workspaces.git import Git, GitFailed, Place
from runtimed.execution.workspaces.index import own_index
from runtimed.execution.workspaces.record import Prepared, objects_of
from runtimed.execution.workspaces.repository import find_repository, has_commits_outside

MAX_NESTED = 100
"""How many repositories inside of a working tree are looked into."""

GITLINK = b"160000 "
STATUS = ("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=normal", "--ignore-submodules=dirty")


class WorkingTree:
    """The working tree of one workspace. Its methods raise GitFailed or OSError if they cannot tell."""

    def __init__(self, git: Git, prepared: Prepared) -> None:
        self._git = git
        self._prepared = prepared
        self.path = Path(prepared.path)

    @property
    def place(self) -> Place:
        """Where git works, with the repository that was found when the workspace was prepared."""
        found = self._prepared
        if found.git_dir is None or found.work_tree is None:
            raise GitFailed("the workspace is no git repository: there is nothing to compare it with")
        top = Path(found.work_tree)
        cwd = self.path if found.mode == "shared" else top
        return Place(cwd, Path(found.git_dir), top, view=self._view(Path(found.git_dir), top))

    def _view(self, git_dir: Path, top: Path) -> View:
        found = self._prepared
        if found.mode == "copy":
            return View(top, (top,), (git_dir,))
        if found.mode == "clone":
            return View(top, (top, objects_of(found)))
        parts = (top, git_dir) if found.common_dir is None else (top, git_dir, Path(found.common_dir))
        return View(self.path, (self.path, *parts))

    async def is_dirty(self) -> bool:
        """Return whether there are changes that no commit holds. Ignored files do not count."""
        place = await self._git.hardened(self.place)
        return await self._has_changes(place) or await self._has_changes_inside(place)

    async def ahead(self) -> int:
        """Return how many commits there are since the base."""
        base = self._prepared.base
        span = "HEAD" if base is None else f"{base}..HEAD"
        return int((await self._git.run(self.place, "rev-list", "--count", span, "--")).text)

    async def branch(self) -> str | None:
        """Return the branch that the working tree is on, or None."""
        answer = await self._git.run(self.place, "symbolic-ref", "--quiet", "--short", "HEAD", accepted=(0, 1))
        return answer.text or None

    async def nested(self, place: Place) -> list[Path]:
        """Return the repositories inside that the index names and that are checked out."""
        found: list[bytes] = []
        rest = bytearray()

        def take(data: bytes) -> bool:
            *entries, last = (bytes(rest) + data).split(b"\0")
            rest[:] = last
            found.extend(entry.partition(b"\t")[2] for entry in entries if entry.startswith(GITLINK))
            return len(found) <= MAX_NESTED

        await self._git.run(place, "ls-files", "--stage", "-z", take=take)
        if len(found) > MAX_NESTED:
            raise GitFailed(f"there are more than {MAX_NESTED} repositories inside")
        return await asyncio.to_thread(_checked_out, place.work_tree or place.cwd, found)

    async def _has_changes(self, place: Place) -> bool:
        changed = False

        def take(_data: bytes) -> bool:
            nonlocal changed
            changed = True
            return False

        async with own_index(self._git, place) as own:
            await self._git.run(own, *STATUS, "--", ".", take=take)
        return changed

    async def _has_changes_inside(self, place: Place) -> bool:
        """Return whether a submodule, or another repository inside, holds work that is nowhere else."""
        for folder in await self.nested(place):
            inner = await find_repository(self._git, folder, None, place.view)
            if inner is None or inner.work_tree != folder:
                return True
            nested = await self._git.hardened(Place(folder, inner.git_dir, folder, view=place.view))
            kept_elsewhere = ("HEAD", "--branches", "--not", "--remotes")
            if await self._has_changes(nested):
                return True
            if self._prepared.mode != "copy" and await has_commits_outside(self._git, nested, kept_elsewhere):
                return True
        return False


def _checked_out(top: Path, entries: Iterable[bytes]) -> list[Path]:
    folders = (top / entry.decode(errors="surrogateescape") for entry in entries)
    return [folder for folder in folders if not folder.is_symlink() and (folder / ".git").exists()]
