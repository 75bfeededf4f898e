"""The programs that measured Workers run, and the configuration with their profiles."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import REPOSITORY

END = '{"event":"run_end","data":{"result":"finished"}}'
READY = "ready"
ECHO = f"echo {READY}; while read -r line; do echo heard; echo '{END}'; done"
"""Prints READY, then a word and the end of the run for each input. Uses only built-ins of the shell."""


def shell(script: str) -> list[str]:
    """Return the argv that runs a script by `sh`."""
    return [shutil.which("sh") or "sh", "-c", script]


def printer(file: Path) -> list[str]:
    """Return the argv of a program that prints a file for each input."""
    return shell(f"while read -r line; do cat '{file}'; echo '{END}'; done")


def configure(
    folder: Path,
    programs: Mapping[str, Sequence[str]],
    backend: str = "process",
    warm: Mapping[str, int] | None = None,
) -> None:
    """Configure a profile for each program, for a Daemon in this folder. Programs can import the benchmarks.

    They are not confined: they read files of the run, and what confinement costs is measured apart.

    Args:
        folder: The folder of the Daemon.
        programs: The commands by the names of their profiles.
        backend: The backend of all profiles.
        warm: How many agents of a profile are kept started, by its name.
    """
    file = folder / "runtimed" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    tables = (
        f'[profiles."builtin:{name}"]\nbackend = "{backend}"\ncommand = {json.dumps(list(command))}\n'
        f"env = {{ PYTHONPATH = {json.dumps(str(REPOSITORY))} }}\nwarm = {(warm or {}).get(name, 0)}\n"
        for name, command in programs.items()
    )
    file.write_text("\n".join(['[sandbox]\nmode = "off"\n', *tables]))


def request(name: str) -> dict[str, Any]:
    """Return the request for a Worker that runs this program."""
    return {"profile": {"kind": "builtin", "value": f"builtin:{name}"}}
