"""Clones: a repository of its own for one Worker, whose branch comes back into the workspace's repository."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import attrs

from runtimed.execution.processes.confinement import View
from runtimed.execution.workspaces.git import Git, GitFailed, Place
from runtimed.execution.workspaces.record import Prepared, objects_of
from runtimed.execution.workspaces.repository import (
    commit_of,
    has_unsaved_commits,
    held_by,
    move_branch,
    new_branch_name,
)
from runtimed.execution.workspaces.working_tree import WorkingTree
from runtimed.execution.workspaces.worktree import BRANCHES, PREPARE_DEADLINE_S, repository_of
from runtimed.model.identity import WorkerId

FETCH_DEADLINE_S = 60.0
"""How long the branch of a clone may take to come into the workspace's repository."""

CLONE = ("clone", "--quiet", "--shared", "--no-checkout", "--template=", "--no-recurse-submodules")
FETCH = (
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-auto-maintenance",
    "--no-recurse-submodules",
    "--no-write-commit-graph",
)
BUNDLE = "commits.bundle"


async def make_clone(git: Git, planned: Prepared) -> Prepared:
    """Make the clone, which borrows the objects, on its branch. Raises GitFailed."""
    made, branch, base = Path(planned.made or ""), planned.branch or "", planned.base or ""
    common = Path(planned.common_dir or "")
    around = Place(made.parent, view=View(common, (common,), (made,)))
    await git.run(around, *CLONE, "--", str(common), str(made), deadline_s=PREPARE_DEADLINE_S)
    git_dir = made / ".git"
    place = await git.hardened(Place(made, git_dir, made, view=View(made, (objects_of(planned),), (made,))))
    # Of a repository on no branch git clones any branch with the same commit, perhaps this one: hence -B.
    args = ("checkout", "--quiet", "--no-track", "-B", branch, base, "--")
    await git.run(place, *args, deadline_s=PREPARE_DEADLINE_S)
    return attrs.evolve(planned, git_dir=str(git_dir), work_tree=str(made), own_branch=branch, saved=base)


async def fetch_branch(git: Git, prepared: Prepared, worker_id: WorkerId) -> Prepared:
    """Bring the branch of a clone into the workspace's repository.

    The branch there is moved only from where it was left the last time, and while nobody works on it. Otherwise the
    commits go to a new branch.

    Returns:
        The workspace, with the branch and the commit that its repository has now.

    Raises:
        GitFailed: It could not be brought.
        OSError: There is no room for it.
    """
    clone = WorkingTree(git, prepared).place
    tip = await commit_of(git, clone, f"refs/heads/{prepared.own_branch}")
    if tip is None or tip == prepared.saved:
        return prepared
    repository = await git.hardened(repository_of(prepared))
    if await commit_of(git, repository, tip) is None:
        await _bring(git, prepared, clone, repository)
    branch = prepared.branch or ""
    is_there = await commit_of(git, repository, f"refs/heads/{branch}") == tip  # its record was lost in a kill
    if not is_there and not (
        await _is_free(git, repository, branch) and await move_branch(git, repository, branch, tip, prepared.saved)
    ):
        branch = await new_branch_name(git, repository, f"{BRANCHES}/{worker_id}")
        if not await move_branch(git, repository, branch, tip, None):
            raise GitFailed(f"the branch {branch} cannot be made")
    return attrs.evolve(prepared, branch=branch, saved=tip)


async def _bring(git: Git, prepared: Prepared, clone: Place, repository: Place) -> None:
    """Bring the commits of the branch, as a file: the users of the two repositories cannot read each other's."""
    own, saved = f"refs/heads/{prepared.own_branch}", prepared.saved or ""
    held = [f"^{saved}"] if saved and await commit_of(git, repository, saved) else []
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="runtimed-bundle-"))
    try:
        bundle = str(folder / BUNDLE)
        writing = attrs.evolve(clone, view=clone.reachable.writing(folder))
        create = ("bundle", "create", "--quiet", bundle, own, *held)
        await git.run(writing, *create, deadline_s=FETCH_DEADLINE_S)
        reading = attrs.evolve(repository, view=repository.reachable.writing(folder))
        await git.run(reading, *FETCH, "--", bundle, own, deadline_s=FETCH_DEADLINE_S)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def is_unsaved(git: Git, prepared: Prepared) -> bool:
    """Return whether the clone holds work that the workspace's repository does not. Raises GitFailed."""
    tree = WorkingTree(git, prepared)
    if await tree.is_dirty():
        return True
    return await has_unsaved_commits(git, tree.place, await held_by(git, repository_of(prepared)))


async def _is_free(git: Git, repository: Place, branch: str) -> bool:
    """Return whether no working tree is on the branch."""
    args = ("for-each-ref", "--format=%(worktreepath)", f"refs/heads/{branch}")
    return not (await git.run(repository, *args)).text
