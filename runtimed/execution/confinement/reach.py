"""What the programs of one Worker may reach."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from runtimed.execution.processes.confinement import Launch
from runtimed.model.profile import Mechanism, NetworkReach


@attrs.frozen
class Bind:
    """A file or folder of the host that programs see.

    Attributes:
        source: Where it is on the host, absolute and without links.
        target: Where programs find it.
        writable: Whether they may change it.
        is_tmp: It is for temporary files. Where it cannot be shown as its target, TMPDIR names its source.
        is_repository: It is a repository of Git, parts of which later binds make writable.
    """

    source: Path
    target: Path
    writable: bool = False
    is_tmp: bool = False
    is_repository: bool = False


@attrs.frozen
class Reach:
    """What the programs of one Worker may reach, besides the system.

    Attributes:
        binds: Files and folders, in the order in which they are laid over each other.
        hidden: Files and folders that stay invisible, even where a bind contains them.
        parent: The folder that the Worker's own folder is in, if it has one.
        fixed: Sources beside which Workers may write: once a link leads to one of them, nothing is started any more.
        uid: The user that programs run as; None for the daemon's.
        mapped: Folders of root that are shown as those of that user.
        home: The home of that user.
        network: What they can connect to.
        has_listeners: Whether ways out listen on loopback addresses inside.
        ports: The ports of ways out that listen on the host.
        executables: The only programs that can be executed, besides the Worker's own; None for all.
        secrets: The contents of files that only the Worker can read, by their paths inside.
    """

    binds: tuple[Bind, ...]
    hidden: tuple[Path, ...] = ()
    parent: Path | None = None
    fixed: tuple[Path, ...] = ()
    uid: int | None = None
    mapped: tuple[Path, ...] = ()
    home: Path = Path("/")
    network: NetworkReach = "host"
    has_listeners: bool = False
    ports: tuple[int, ...] = ()
    executables: tuple[Path, ...] | None = None
    secrets: Mapping[Path, str] = attrs.field(factory=dict, repr=False)

    def allows(self, path: Path, *, writing: bool) -> bool:
        """Return whether a path without links can be read, or written to, as the binds lie over each other."""
        is_readable = is_writable = False
        for bind in self.binds:
            if path.is_relative_to(bind.target):
                source = bind.source / path.relative_to(bind.target)
                is_hidden = any(
                    hidden.is_relative_to(bind.source) and source.is_relative_to(hidden) for hidden in self.hidden
                )
                is_readable, is_writable = not is_hidden, bind.writable and not is_hidden
        return is_writable if writing else is_readable


class Confinement(Protocol):
    """A mechanism that confines programs. All methods block."""

    mechanism: Mechanism

    limits_network: bool
    """Whether it can keep programs from the network."""

    has_own_files: bool
    """Whether programs have a file system, a network and a user of their own, not only what the host has."""

    def problem(self, reach: Reach) -> str | None:
        """Return what of it this mechanism cannot hold, in words for people, or None."""

    def launch(
        self,
        reach: Reach,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        max_descriptors: int | None = None,
    ) -> Launch:
        """Return a command that starts the program confined, with this environment and limit.

        Raises:
            OSError: That is not possible.
            ValueError: A variable cannot be set.
        """

    def launch_ahead(
        self, reach: Reach, cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None
    ) -> Launch | None:
        """Return the same for a program that is not known yet; None if that is not possible."""
