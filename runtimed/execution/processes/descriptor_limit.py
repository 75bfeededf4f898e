"""Limit how many descriptors a program may open."""

from collections.abc import Sequence

SHELL = "/bin/sh"
LIMITED = 'ulimit -Sn "$0" && exec "$@"'
"""Sets the limit in a program of its own: setting it between fork and exec is not safe with threads."""


def limited(command: Sequence[str], max_descriptors: int | None) -> Sequence[str]:
    """Return the command with a limit, which its program may raise. None leaves the limit of this process."""
    return command if max_descriptors is None else [SHELL, "-c", LIMITED, str(max_descriptors), *command]
