"""Settings of workspaces: what references mean, and which folders clients may name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from runtimed.errors import ConfigurationError
from runtimed.execution.workspaces.catalog import DIR, ConfiguredWorkspace
from runtimed.wire.converter import make_strict_converter
from runtimed.wire.problems import first_problem

_converter = make_strict_converter(explaining=True)


@attrs.frozen(slots=False)
class WorkspaceSettings:
    """Where Workers may work."""

    workspace_roots: tuple[str, ...] = ()
    workspaces: dict[str, Any] = attrs.field(factory=dict)

    def workspace_table(self) -> Mapping[str, ConfiguredWorkspace]:
        """Return the configured workspaces by reference. Raises ConfigurationError, which names the wrong key."""
        return {reference: _read(reference, fields) for reference, fields in self.workspaces.items()}

    def check_workspaces(self) -> None:
        """Raise ConfigurationError if a root or a workspace is wrong."""
        for root in self.workspace_roots:
            if not Path(root).is_absolute() or "\0" in root:
                raise ConfigurationError(f"workspace_roots: expected absolute paths, got {root!r}")
        self.workspace_table()


def _read(reference: str, fields: Any) -> ConfiguredWorkspace:
    place = f"workspaces.{reference}"
    if not reference.strip() or not reference.isprintable() or reference.startswith(DIR):
        raise ConfigurationError(f"{place}: expected a printable reference that does not begin with {DIR}")
    if type(fields) is not dict:
        raise ConfigurationError(f"{place}: expected a table, with a path in it")
    try:
        found = _converter.structure(fields, ConfiguredWorkspace)
    except Exception as error:
        problem = first_problem(error).within(place)
        raise ConfigurationError(f"{problem.path}: {problem.problem}") from error
    _check(place, found)
    return found


def _check(place: str, workspace: ConfiguredWorkspace) -> None:
    if not Path(workspace.path).is_absolute() or "\0" in workspace.path:
        raise ConfigurationError(f"{place}.path: expected an absolute path")
    if workspace.ref is None:
        return
    if workspace.mode not in {"worktree", "clone"}:
        raise ConfigurationError(
            f"{place}.ref: only a worktree or a clone begins at a ref, not the mode {workspace.mode}"
        )
    if not workspace.ref.strip() or workspace.ref.startswith("-") or not workspace.ref.isprintable():
        raise ConfigurationError(f"{place}.ref: expected a branch, a tag or a commit, such as main")
