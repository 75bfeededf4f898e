"""Find repositories, and ask what is in them."""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

import attrs

from runtimed.execution.processes.confinement import View
from runtimed.execution.workspaces.git import Git, GitFailed, Place
from runtimed.execution.workspaces.pointers import POINTER, first_line

MAX_BRANCHES = 100
"""How many branches one Worker may have in a repository: `-2` to `-100` follow the plain name."""


@attrs.frozen
class Repository:
    """A repository that was found from a folder.

    Attributes:
        git_dir: What is of this working tree alone.
        common_dir: What all working trees of the repository share.
        work_tree: The top of the working tree; None for a bare repository.
    """

    git_dir: Path
    common_dir: Path
    work_tree: Path | None

    def place(self, cwd: Path) -> Place:
        """Return where git works in it, from a folder of it on."""
        parts = (self.git_dir, self.common_dir, *(() if self.work_tree is None else (self.work_tree,)))
        return Place(cwd, self.git_dir, self.work_tree, view=View(cwd, (cwd, *parts)))


async def find_repository(git: Git, folder: Path, root: Path | None, view: View | None = None) -> Repository | None:
    """Return the repository that a folder belongs to, or None.

    Whoever can write to the folder can make it point to any repository. So one elsewhere has to point back.

    Args:
        git: Runs git.
        folder: The folder.
        root: A repository that any part of lies outside of this folder is none; None for a folder that the operator
            has named.
        view: What git may reach; by default what the folder itself says of its repository.

    Raises:
        GitFailed: It cannot be told.
    """
    view = view or await asyncio.to_thread(_view_of, folder, root)
    place = Place(folder, ceiling=root.parent if root is not None else None, view=view)
    args = ("rev-parse", "--path-format=absolute", "--is-bare-repository", "--git-dir", "--git-common-dir")
    answer = await git.run(place, *args, accepted=(0, 128))
    lines = answer.text.split("\n")
    if answer.status or len(lines) != 3:
        return None
    top = None
    if lines[0] == "false":
        shown = await git.run(place, "rev-parse", "--path-format=absolute", "--show-toplevel", accepted=(0, 128))
        if shown.status:
            return None
        top = Path(shown.text)
    found = await asyncio.to_thread(_checked, Repository(Path(lines[1]), Path(lines[2]), top), folder, root)
    if found is None or root is not None:
        return found
    if not await asyncio.to_thread(_leads_to, found, folder):
        return None
    return found if await asyncio.to_thread(_points_back, found, folder) or await _is_module(git, found) else None


async def _is_module(git: Git, found: Repository) -> bool:
    """Return whether a repository is that of a submodule: its configuration names the working tree."""
    if found.work_tree is None or found.git_dir != found.common_dir:
        return False
    args = ("config", "--get", "core.worktree")
    named = (await git.run(found.place(found.work_tree), *args, accepted=(0, 1))).text
    return bool(named) and await asyncio.to_thread((found.git_dir / named).resolve) == found.work_tree


def _view_of(folder: Path, root: Path | None) -> View:
    """Return where the repository of a folder is, as far as its files say. Blocks."""
    for top in (folder, *folder.parents):
        if root is not None and not top.is_relative_to(root):
            break
        pointer = first_line(top / ".git")
        if pointer is not None:
            git_dir = (top / pointer.removeprefix(POINTER)).resolve()
            common_dir = (git_dir / (first_line(git_dir / "commondir") or "")).resolve()
            parts = [part for part in (git_dir, common_dir) if root is None or part.is_relative_to(root)]
            return View(folder, (folder, top, *(part for part in parts if part.is_dir())))
        if (top / ".git").is_dir() or all((top / name).exists() for name in ("HEAD", "objects", "refs")):
            return View(folder, (folder, top))
    return View(folder, (folder,))


def _checked(found: Repository, folder: Path, root: Path | None) -> Repository | None:
    """Return the repository without links, or None if it is none for this folder. Blocks."""
    git_dir, common_dir = found.git_dir.resolve(), found.common_dir.resolve()
    work_tree = found.work_tree.resolve() if found.work_tree is not None else None
    if work_tree is not None and not folder.is_relative_to(work_tree):
        return None
    places = (git_dir, common_dir, *(() if work_tree is None else (work_tree,)))
    if root is not None and not all(place.is_relative_to(root) for place in places):
        return None
    return Repository(git_dir, common_dir, work_tree)


def _leads_to(found: Repository, folder: Path) -> bool:
    """Return whether the folder, or the working tree that it is in, names the repository. Blocks."""
    if found.work_tree is None and folder.is_relative_to(found.git_dir):
        return True
    top = found.work_tree or folder
    pointer = first_line(top / ".git")
    named = top / ".git" if pointer is None else top / pointer.removeprefix(POINTER)
    return named.resolve() == found.git_dir


def _points_back(found: Repository, folder: Path) -> bool:
    """Return whether a repository lies within what names it, or has a worktree there. Blocks."""
    git_dir, top = found.git_dir, found.work_tree or folder
    if git_dir == found.common_dir:
        return git_dir.is_relative_to(top) or folder.is_relative_to(git_dir)
    pointer = first_line(git_dir / "gitdir")
    is_worktree = git_dir.parent == found.common_dir / "worktrees" and pointer is not None
    return is_worktree and (git_dir / (pointer or "")).parent.resolve() == top


async def commit_of(git: Git, place: Place, ref: str) -> str | None:
    """Return the id of the commit that a ref stands for, or None. Raises GitFailed."""
    args = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    answer = await git.run(place, *args, accepted=(0, 1, 128))
    return answer.text if not answer.status and answer.text else None


async def has_commits_outside(git: Git, place: Place, of: Sequence[str], held: bytes = b"") -> bool:
    """Return whether a commit is reachable from some refs, and from none that keeps it.

    Args:
        git: Runs git.
        place: The repository.
        of: The refs, and the options that select refs; `--not` turns the ones behind it around.
        held: Further commits that are kept, each as a line `^ID`.

    Raises:
        GitFailed: It cannot be told.
    """
    answer = await git.run(place, "rev-list", "--max-count=1", "--ignore-missing", *of, "--stdin", stdin=held)
    return bool(answer.output)


async def has_unsaved_commits(git: Git, place: Place, held: bytes) -> bool:
    """Return whether a commit of a Worker's own repository is on none of its remotes, and not kept elsewhere.

    Args:
        git: Runs git.
        place: The repository.
        held: The commits that are kept elsewhere, each as a line `^ID`.

    Raises:
        GitFailed: It cannot be told.
    """
    loose = [ref for ref in ("HEAD", "refs/stash") if await commit_of(git, place, ref)]
    return await has_commits_outside(git, place, (*loose, "--branches", "--tags", "--not", "--remotes"), held)


async def held_by(git: Git, place: Place) -> bytes:
    """Return what the refs of a repository keep, each as a line `^ID`. Raises GitFailed."""
    return (await git.run(place, "for-each-ref", "--format=^%(objectname)")).output


async def has_branch(git: Git, place: Place, branch: str) -> bool:
    """Return whether a repository has a branch of exactly this name. Raises GitFailed."""
    answer = await git.run(place, "show-ref", "--verify", "--quiet", f"refs/heads/{branch}", accepted=(0, 1))
    return not answer.status


async def new_branch_name(git: Git, place: Place, wanted: str, refused: Collection[str] = ()) -> str:
    """Return the name, or with -2, -3 and so on the first that no branch has and that is not refused.

    Raises:
        GitFailed: There is none, or it cannot be told.
    """
    for number in range(1, MAX_BRANCHES + 1):
        name = wanted if number == 1 else f"{wanted}-{number}"
        if name not in refused and not await has_branch(git, place, name):
            return name
    raise GitFailed(f"the repository has {MAX_BRANCHES} branches that begin with {wanted}")


async def move_branch(git: Git, place: Place, branch: str, to: str, expected: str | None) -> bool:
    """Set a branch, if it still is where it is expected to be; with None, if there is none.

    Returns:
        Whether it was set.
    """
    before = expected or "0" * len(to)
    args = ("update-ref", "-m", "runtimed", f"refs/heads/{branch}", to, before)
    return not (await git.run(place, *args, accepted=(0, 1, 128))).status


async def remove_branch(git: Git, place: Place, branch: str, expected: str) -> None:
    """Remove a branch, if it still is where it is expected to be."""
    await git.run(place, "update-ref", "-d", f"refs/heads/{branch}", expected, accepted=(0, 1, 128))
