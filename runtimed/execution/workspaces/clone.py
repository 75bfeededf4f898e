"""Clones: a repository of its own for one Worker, whose branch comes back into the workspace's repository."""

from pathlib import Path

import attrs

from runtimed.execution.workspaces.git import Git, GitFailed, Place
from runtimed.execution.workspaces.record import Prepared
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
    "--upload-pack=git-upload-pack",
)


async def make_clone(git: Git, planned: Prepared) -> Prepared:
    """Make the clone, which borrows the objects, on its branch. Raises GitFailed."""
    made, branch, base = Path(planned.made or ""), planned.branch or "", planned.base or ""
    around = Place(made.parent)
    await git.run(around, *CLONE, "--", planned.common_dir or "", str(made), deadline_s=PREPARE_DEADLINE_S)
    git_dir = made / ".git"
    place = await git.hardened(Place(made, git_dir, made))
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
    """
    own = f"refs/heads/{prepared.own_branch}"
    tip = await commit_of(git, WorkingTree(git, prepared).place, own)
    if tip is None or tip == prepared.saved:
        return prepared
    repository = await git.hardened(repository_of(prepared))
    await git.run(repository, *FETCH, "--", prepared.made or "", own, deadline_s=FETCH_DEADLINE_S)
    branch = prepared.branch or ""
    is_there = await commit_of(git, repository, f"refs/heads/{branch}") == tip  # its record was lost in a kill
    if not is_there and not (
        await _is_free(git, repository, branch) and await move_branch(git, repository, branch, tip, prepared.saved)
    ):
        branch = await new_branch_name(git, repository, f"{BRANCHES}/{worker_id}")
        if not await move_branch(git, repository, branch, tip, None):
            raise GitFailed(f"the branch {branch} cannot be made")
    return attrs.evolve(prepared, branch=branch, saved=tip)


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
