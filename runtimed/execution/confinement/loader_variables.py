"""Variables that let whoever sets them run code within any program, and so within what confines programs."""

import re
import shlex
from collections.abc import Mapping

import attrs

_LOADER = re.compile(
    r"LD_[A-Z0-9_]+|GCONV_PATH|GETCONF_DIR|GLIBC_TUNABLES|HOSTALIASES|LOCALDOMAIN|LOCPATH|MALLOC_TRACE|NIS_PATH"
    r"|NLSPATH|RESOLV_HOST_CONF|RES_OPTIONS|TZDIR",
    re.ASCII,
)
"""What the loader and the C library ignore themselves in programs that change their user by a bit of their file."""

_HELD = "RUNTIMED_HELD_"


@attrs.frozen
class Held:
    """An environment whose variables for the loader wait under other names.

    Attributes:
        env: The environment of what starts the program.
        script: Commands of a shell that give the variables their names again; empty if there are none.
    """

    env: Mapping[str, str] = attrs.field(repr=False)
    script: str = ""


def hold(env: Mapping[str, str]) -> Held:
    """Return the environment with the variables for the loader held back."""
    names = [name for name in env if _LOADER.fullmatch(name)]
    others = {name: value for name, value in env.items() if name not in names}
    held = {f"{_HELD}{number}": name for number, name in enumerate(names)}
    script = "".join(f'export {shlex.quote(name)}="${key}"; unset {key}; ' for key, name in held.items())
    return Held({**others, **{key: env[name] for key, name in held.items()}}, script)
