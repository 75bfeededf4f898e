"""Worktrees: a working tree of the workspace's repository for one Worker, on a branch of its own."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import attrs

from runtimed.execution.beneath import open_without_links
from runtimed.execution.processes.confinement import View
from runtimed.execution.workspaces.git import Git, GitFailed, Place
from runtimed.execution.workspaces.pointers import POINTER, first_line
from runtimed.execution.workspaces.record import Prepared
from runtimed.execution.workspaces.repository import (
    commit_of,
    find_repository,
    has_branch,
    has_commits_outside,
    move_branch,
    new_branch_name,
    remove_branch,
)
from runtimed.execution.workspaces.working_tree import WorkingTree
from runtimed.model.identity import WorkerId

INITIALIZING = "initializing"
"""What git writes into `locked` while it makes a worktree."""

BRANCHES = "runtimed"
"""What the names of the branches of Workers begin with, before a slash."""

LOGGED = {"core.logAllRefUpdates": "true"}
"""Makes the folder of the logs, which a confined Worker cannot make and git needs in worktrees."""

IN_THE_WAY = "its repository has a branch named runtimed: rename it, because git makes no runtimed/worker-… beside it"
NO_REPOSITORY = "its folder is no git repository, or points to one that does not point back"
ALTERNATES = "objects/info/alternates"
BORROWS = "git finds no such commit: its repository borrows objects from another one, which confined git cannot reach"
NO_COMMIT = "its repository has no such commit"
UNSAVED = ("HEAD", "--not", "--branches", "--tags", "--remotes")
"""What selects the commits of a worktree that its repository keeps nowhere else."""

PREPARE_DEADLINE_S = 300.0
"""How long git may take to write out the files of a repository."""


async def plan(git: Git, prepared: Prepared, ref: str | None) -> Prepared:
    """Return the workspace with its repository and its base.

    Raises:
        GitFailed: The source is no repository, or has no such commit.
    """
    source = Path(prepared.source)
    found = await find_repository(git, source, None)
    if found is None:
        raise GitFailed(NO_REPOSITORY)
    base = await commit_of(git, found.place(source), ref or "HEAD")
    if base is None:
        borrows = await asyncio.to_thread((found.common_dir / ALTERNATES).exists)
        raise GitFailed(BORROWS if borrows else NO_COMMIT)
    return attrs.evolve(prepared, common_dir=str(found.common_dir), base=base)


async def with_free_branch(
    git: Git, planned: Prepared, worker_id: WorkerId, refused: Collection[str] = ()
) -> Prepared:
    """Return the workspace with the name of a branch that is free and not refused. Raises GitFailed."""
    name = await new_branch_name(git, repository_of(planned), f"{BRANCHES}/{worker_id}", refused)
    return attrs.evolve(planned, branch=name)


async def why_no_branch(git: Git, planned: Prepared) -> str:
    """Return why no branch can be made for a workspace. Raises GitFailed."""
    if await has_branch(git, repository_of(planned), BRANCHES):
        return IN_THE_WAY
    return "git makes no branch for it: check whether the daemon's user may write to its repository"


async def make_branch(git: Git, planned: Prepared) -> bool:
    """Make the branch of a workspace at its base, unless somebody else was faster. Returns whether it was made."""
    place = attrs.evolve(repository_of(planned), settings=LOGGED if planned.mode == "worktree" else {})
    return await move_branch(git, place, planned.branch or "", planned.base or "", None)


async def make_worktree(git: Git, planned: Prepared) -> Prepared:
    """Make the worktree of a branch that is there.

    Another Worker may have written the place or the branch of this one into what is kept about its own worktree, and
    locked that: git takes both all the same, when it is forced twice.

    Raises:
        GitFailed: Git has made none.
        OSError: What is left of an earlier one cannot be removed.
    """
    await asyncio.to_thread(forget_worktree, planned)
    repository = await git.hardened(repository_of(planned))
    made = planned.made or ""
    repository = attrs.evolve(repository, view=repository.reachable.writing(Path(made)))
    args = ("worktree", "add", "--quiet", "--force", "--force", "--", made, planned.branch or "")
    await git.run(repository, *args, deadline_s=PREPARE_DEADLINE_S)
    entry = await asyncio.to_thread(find_entry, planned)
    if entry is None:
        raise GitFailed("git worktree add has made no worktree")
    return attrs.evolve(planned, git_dir=str(entry), work_tree=made)


async def undo_branch(git: Git, planned: Prepared) -> None:
    """Remove the branch of a workspace that nobody has worked in."""
    if planned.common_dir and planned.branch and planned.base:
        with contextlib.suppress(GitFailed):
            await remove_branch(git, repository_of(planned), planned.branch, planned.base)


async def is_unsaved(git: Git, prepared: Prepared) -> bool:
    """Return whether the worktree holds work that its branch and the other branches do not.

    If its folder is gone, its repository may still hold the commits of a detached head.

    Raises:
        GitFailed: It cannot be told.
        OSError: It cannot be told.
    """
    if not await asyncio.to_thread(Path(prepared.made or "").is_dir):
        entry = await asyncio.to_thread(find_entry, prepared)
        if entry is None:
            return False
        common = Path(prepared.common_dir or "")
        return await has_commits_outside(git, Place(entry, entry, view=View(common, (common,))), UNSAVED)
    if not await asyncio.to_thread(_is_linked, prepared):
        return True
    tree = WorkingTree(git, prepared)
    return await tree.is_dirty() or await has_commits_outside(git, tree.place, UNSAVED)


def repository_of(prepared: Prepared) -> Place:
    """Return the place of the repository that a worktree or a clone was made from."""
    common = Path(prepared.common_dir or "")
    return Place(common, common, view=View(common, (), (common,)))


def find_entry(prepared: Prepared) -> Path | None:
    """Return what the repository keeps about the worktree, or None. Blocks.

    It is found by the path of the worktree, which the repository writes down, because a worktree's own pointer may be
    missing or lead elsewhere. Where git was killed before it wrote that, it is found by its name. Workers can write
    any path into what is kept about their own worktrees, so the name has to be one of this workspace all the same.
    """
    if prepared.common_dir is None or prepared.made is None:
        return None
    made = Path(prepared.made)
    *own, _ = made.name.split("-", 3)
    with contextlib.suppress(OSError):
        for entry in sorted((Path(prepared.common_dir) / "worktrees").iterdir()):
            pointer = first_line(entry / "gitdir")
            is_own = _target(entry, pointer) == made / ".git" if pointer else entry.name == made.name
            if is_own and entry.name.split("-", 3)[:-1] == own and not entry.is_symlink():
                return entry
    return None


def is_half_made(prepared: Prepared) -> bool:
    """Return whether git was killed before it wrote out the files: nobody has worked in the worktree yet. Blocks."""
    entry = find_entry(prepared)
    return entry is not None and first_line(entry / "locked") == INITIALIZING and not (entry / "index").exists()


def forget_worktree(prepared: Prepared) -> None:
    """Remove what the repository keeps about the worktree, its locks included. Blocks. Raises OSError."""
    entry = find_entry(prepared)
    if entry is not None:
        parent = open_without_links(entry.parent)
        try:
            shutil.rmtree(entry.name, dir_fd=parent)
        finally:
            os.close(parent)


def _is_linked(prepared: Prepared) -> bool:
    """Return whether the worktree still points to its place in the repository."""
    made = Path(prepared.made or "")
    pointer = first_line(made / ".git")
    return pointer is not None and str(_target(made, pointer.removeprefix(POINTER))) == prepared.git_dir


def _target(folder: Path, pointer: str) -> Path:
    """Return the absolute path that a pointer in a folder names: `git worktree repair` can make it relative."""
    return Path(os.path.normpath(folder / pointer))
