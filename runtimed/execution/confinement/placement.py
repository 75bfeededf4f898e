"""A Worker that is to be confined, with its folders."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from runtimed.core.ports import WorkingFolders
from runtimed.errors import printable
from runtimed.execution.confinement.bind_source import LinkFound, check_source
from runtimed.execution.confinement.declarations import network_of
from runtimed.execution.confinement.repository_view import repository_binds
from runtimed.execution.grants import Grants
from runtimed.execution.processes.confinement import ConfinementRefused, SandboxRequest


@attrs.frozen
class Placement:
    """A Worker that is to be confined.

    Attributes:
        request: What its profile asks for.
        folder: Its own folder.
        folders: Its workspaces.
        grants: What it gets besides.
        secret_files: The contents of its secret files.
    """

    request: SandboxRequest
    folder: Path
    folders: WorkingFolders
    grants: Grants
    secret_files: Mapping[Path, str] = attrs.field(repr=False)

    @property
    def is_held(self) -> bool:
        """Whether something that only a confined program can be held to was declared or requested."""
        grants = self.grants
        is_narrowed = grants.network != network_of(self.request.policy)
        given = (grants.secrets, grants.mounts, grants.git)
        return is_narrowed or any(given) or grants.executables is not None

    @property
    def made(self) -> Sequence[Path]:
        """The workspaces within its own folder."""
        return [path for path in self._all() if path.is_relative_to(self.folder)]

    @property
    def shared(self) -> Sequence[Path]:
        """The folders outside of its own that it works in."""
        return [path for path in self._all() if not path.is_relative_to(self.folder)]

    @property
    def borrowed(self) -> Sequence[Path]:
        """The folders of objects that its clones only read."""
        return list(map(Path, self.folders.borrowed))

    @property
    def fixed(self) -> Iterator[Path]:
        """The folders outside of its own that it is shown because of its workspaces and mounts."""
        yield from (*self.shared, *self.borrowed, *(mount.path for mount in self.grants.mounts.values()))
        for repository in self.folders.repositories:
            yield from (bind.source for bind in repository_binds(repository))

    def check_links(self) -> None:
        """Raise ConfinementRefused if a link leads to a workspace or a mount by now, or if it is gone.

        No other mechanism makes that better.
        """
        for path in self.fixed:
            try:
                check_source(path)
            except LinkFound as error:
                raise ConfinementRefused(str(error)) from None
            except OSError as error:
                raise ConfinementRefused(f"{printable(str(path))}: {error.strerror}") from None

    def _all(self) -> Iterator[Path]:
        cwd = () if self.folders.cwd is None else (self.folders.cwd,)
        yield from map(Path, (*cwd, *self.folders.others.values()))
