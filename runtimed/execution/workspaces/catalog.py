"""Which folder a reference means on this host."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import attrs

from runtimed.errors import printable
from runtimed.execution import beneath
from runtimed.model.workspace import WorkspaceMode

DIR = "dir:"
"""How a reference begins with which a client names a folder itself."""


class WorkspaceRefused(Exception):
    """A Worker cannot have this workspace; the text says why, in words for clients."""


@attrs.frozen
class ConfiguredWorkspace:
    """What a reference means, as the configuration says.

    Attributes:
        path: The absolute path of the folder or of the repository.
        mode: How Workers get it.
        ref: The commit where the branch of a worktree or a clone begins; None for the current one.
        writable: Whether Workers may change it.
    """

    path: str
    mode: WorkspaceMode = "shared"
    ref: str | None = None
    writable: bool = True


@attrs.frozen
class Source:
    """The folder that a reference means, as it was found.

    Attributes:
        reference: The reference of the client.
        path: The path without links.
        root: The root that its repository must not leave; None where the operator named the folder.
    """

    reference: str
    path: Path
    mode: WorkspaceMode
    ref: str | None = None
    root: Path | None = None


class Catalog:
    """The configured workspaces, and the roots below which clients may name folders themselves."""

    def __init__(
        self, roots: Sequence[str] = (), configured: Mapping[str, ConfiguredWorkspace] | None = None
    ) -> None:
        self._roots = tuple(Path(root) for root in roots)
        self._configured = dict(configured or {})

    def find(self, reference: str, mapped: Mapping[str, str]) -> Source:
        """Find the folder of a reference. Blocks.

        Args:
            reference: The reference of a client.
            mapped: Further shared folders by reference: those of the Worker's profile.

        Raises:
            WorkspaceRefused: The host knows no such workspace, or cannot provide it.
        """
        shown = repr(printable(reference))
        if reference in mapped:
            return _configured(reference, ConfiguredWorkspace(mapped[reference]))
        if reference in self._configured:
            return _configured(reference, self._configured[reference])
        if reference.startswith(DIR):
            return self._below_a_root(reference)
        table = f"[workspaces.{json.dumps(printable(reference), ensure_ascii=False)}]"
        raise WorkspaceRefused(f"no workspace {shown} is configured: add {table} to the configuration")

    def _below_a_root(self, reference: str) -> Source:
        shown = repr(printable(reference))
        if not self._roots:
            raise WorkspaceRefused(f"{shown}: this daemon has no workspace_roots: set them in the configuration")
        path = PurePosixPath(reference.removeprefix(DIR))
        if not path.is_absolute() or "\0" in reference:
            raise WorkspaceRefused(f"{shown}: expected {DIR} and an absolute path")
        for root in self._roots:
            with contextlib.suppress(OSError, ValueError), _opened_root(root) as (descriptor, real):
                top = root if path.is_relative_to(root) else real
                opened = beneath.open_beneath(descriptor, path.relative_to(top))
                with _closing(opened):
                    return _checked(reference, opened, real)
        raise WorkspaceRefused(f"{shown}: expected an existing folder below one of workspace_roots, and no link out")


def _configured(reference: str, workspace: ConfiguredWorkspace) -> Source:
    shown = repr(printable(reference))
    if not workspace.writable:
        raise WorkspaceRefused(f"workspace {shown}: writable = false, which this daemon has no mechanism to enforce")
    try:
        with _closing(beneath.open_folder(Path(workspace.path))) as opened:
            return Source(reference, beneath.real_path(opened), workspace.mode, workspace.ref)
    except OSError as error:
        raise WorkspaceRefused(f"workspace {shown}: its folder cannot be used: {error.strerror}") from error


def _checked(reference: str, opened: int, root: Path) -> Source:
    """Return what was opened below a root. Raises ValueError if it lies elsewhere by now."""
    path = beneath.real_path(opened)
    path.relative_to(root)
    return Source(reference, path, "shared", root=root)


@contextlib.contextmanager
def _opened_root(root: Path) -> Iterator[tuple[int, Path]]:
    with _closing(beneath.open_folder(root)) as descriptor:
        yield descriptor, beneath.real_path(descriptor)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
