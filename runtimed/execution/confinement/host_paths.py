"""Paths of this host."""

from pathlib import Path

import attrs


@attrs.frozen
class HostPaths:
    """Paths of this host.

    Attributes:
        hidden: What no Worker may see: the store, the configuration, tokens, the endpoint file, the daemon's sockets.
        home: The home of the daemon's user.
    """

    hidden: tuple[Path, ...] = ()
    home: Path = attrs.field(factory=Path.home)

    def is_hidden(self, path: Path) -> bool:
        """Return whether a path without links is hidden, or within something hidden."""
        return any(path.is_relative_to(hidden) for hidden in self.hidden)

    def holds_hidden(self, path: Path) -> bool:
        """Return whether something hidden is within a path without links."""
        return any(hidden.is_relative_to(path) for hidden in self.hidden)
