"""The workspaces of a Worker, as clients see them."""

from typing import Literal

from runtimed.model.value import value

WorkspaceMode = Literal["shared", "worktree", "clone", "copy"]


@value
class Workspace:
    """A folder that a Worker was given to work in. The folder's path on the host is not shown.

    Attributes:
        name: The name that the request to create the Worker gave it.
        branch: The branch of the Worker, or the one that a shared repository is on.
        base: The id of the commit that the work began from.
        ahead: How many commits the work is ahead of `base`.
        dirty: Whether there are changes that no commit holds. Ignored files do not count. None where nothing tells.
    """

    name: str
    mode: WorkspaceMode
    writable: bool
    branch: str | None = None
    base: str | None = None
    ahead: int | None = None
    dirty: bool | None = None


@value
class WorkspaceDiff:
    """What was changed in a workspace since its base.

    Attributes:
        patch: The changes as `git apply` takes them.
        left_out: How many files are left out, because the patch would be too large.
    """

    patch: bytes
    left_out: int = 0
