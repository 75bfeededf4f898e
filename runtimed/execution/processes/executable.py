"""Find the file of a profile's command."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path


def located(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[str, ...]:
    """Resolve the program of a command. Blocks.

    Args:
        argv: The command; `~/` at the start of a part is the user's home.
        env: The environment whose PATH is searched.
        cwd: Where a relative path starts.

    Returns:
        The command with the path of its program.

    Raises:
        OSError: There is no such program, or it can't be executed. The text names it without its folder, since
            clients can read it.
    """
    name, *arguments = (at_home(part) for part in argv or ("",))
    found = str(cwd / name) if "/" in name else shutil.which(name, path=env.get("PATH", os.defpath))
    shown = f"command: {Path(name).name!r}"
    if not name or found is None or not Path(found).exists():
        raise FileNotFoundError(f"{shown} does not exist: {_expected(name)}")
    if not Path(found).is_file() or not os.access(found, os.X_OK):
        raise PermissionError(f"{shown} can't be run: expected a file that may be executed")
    return (found, *arguments)


def at_home(part: str) -> str:
    """Return a part of a command with `~/` at its start replaced by the home of the daemon's user."""
    return f"{Path.home()}{part[1:]}" if part.startswith("~/") else part


def _expected(name: str) -> str:
    if "/" in name and not Path(name).is_absolute():
        return "a relative path starts in the Worker's own folder; expected an absolute one, or a program in PATH"
    return "expected a program in PATH, or a path to one"
