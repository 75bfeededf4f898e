"""The environment of programs."""

import os
from collections.abc import Mapping, Sequence

INHERITED = frozenset({"PATH", "HOME", "LANG", "TERM", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"})
"""The environment variables that programs inherit from the daemon, besides those that begin with LC_."""


def environment(extra: Mapping[str, str], passed: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a Worker's program.

    Args:
        extra: Variables to add or replace.
        passed: Names of the daemon's variables to pass on, besides those that are always inherited.
    """
    names = INHERITED.union(passed)
    own = {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}
    return own | dict(extra)
