"""Show a program the repository of its worktree: it can commit, and change nothing of what others execute.

The program writes objects, refs, their logs and what is of its worktree alone. It cannot write the configuration,
the hooks, and what tells git where a repository is: these let it run programs as whoever runs git in the repository.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from runtimed.core.ports import WorktreeRepository
from runtimed.execution.confinement.reach import Bind

WRITABLE = ("objects", "refs", "logs", "lfs")
"""The parts of a repository that git writes for a commit."""

LINKED = ("HEAD", "config.worktree", "hooks", "info", "lfs", "modules", "rr-cache", "shallow", "svn")
"""The other parts that git reads, besides those below and worktrees."""

LIVE = Path("/run/.repositories")
"""Where a sandbox has the repositories themselves, read-only."""

CONFIG, PACKED, WORKTREES = "config", "packed-refs", "worktrees"
STEPS = 5
"""How many links git follows to find the file beside which it makes a lock. The kernel follows more."""

VIEW_BYTES = 1 << 20


def repository_binds(repository: WorktreeRepository) -> Iterator[Bind]:
    """Yield the binds of the repository of a worktree, the outer ones first. Links are among them. Blocks."""
    common = Path(repository.common_dir)
    yield Bind(common, common, is_repository=True)
    own = Path(repository.git_dir)
    for part in (*(common / name for name in WRITABLE), own):
        if part.is_dir() or part.is_symlink():
            yield Bind(part, part, writable=True)


def live_place(repository: Path) -> Path:
    """Return where a sandbox has a repository itself."""
    return LIVE / hashlib.sha256(os.fsencode(repository)).hexdigest()[:16]


def repository_view(repository: Path, source: Callable[[Path], int]) -> Iterator[str]:
    """Yield arguments of bubblewrap that show a repository read-only, so that git can still delete refs. Blocks.

    To delete any ref, git makes a lock beside `packed-refs`. A folder where it can make that is one where it can
    replace the configuration. So the program gets a folder of its own at the place of the repository, with links
    into the repository, which show the changes of others at once. Git makes a lock beside the last link that it
    follows, in that folder. What it writes to the configuration stays there and goes with the program. It can never
    write `packed-refs`, because the name of its draft is taken: refs of others would be lost with that folder.

    Args:
        repository: The path of the repository, without links.
        source: Returns a descriptor of what a bind shows.
    """
    live = live_place(repository)
    yield from ("--ro-bind-fd", str(source(repository)), str(live))
    yield from ("--perms", "0777", "--size", str(VIEW_BYTES), "--tmpfs", str(repository))
    for name in LINKED:
        if name not in WRITABLE or not (repository / name).is_dir():
            yield from ("--symlink", str(live / name), str(repository / name))
    for name in (CONFIG, PACKED):
        names = [name, *(f"{name}.{number}" for number in range(1, STEPS + 1))]
        for link, target in zip(names, (*names[1:], str(live / name)), strict=True):
            yield from ("--symlink", target, str(repository / link))
    yield from ("--ro-bind", os.devnull, str(repository / f"{PACKED}.{STEPS}.new"))
    if (repository / WORKTREES).is_dir():
        yield from ("--ro-bind-fd", str(source(repository / WORKTREES)), str(repository / WORKTREES))
