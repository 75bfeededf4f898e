"""The programs that Workers run in a measurement, and the configuration that has them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import REPOSITORY

END = '{"event":"run_end","data":{"result":"finished"}}'
READY = "ready"
ECHO = f"echo {READY}; while read -r line; do echo heard; echo '{END}'; done"
"""Says that it is there, then a word and the end of the run for each input; all by the shell itself."""


def shell(script: str) -> list[str]:
    """The argv of a script for the plain shell."""
    return [shutil.which("sh") or "sh", "-c", script]


def printer(file: Path) -> list[str]:
    """The argv of a program that prints a file for each input."""
    return shell(f"while read -r line; do cat '{file}'; echo '{END}'; done")


def configure(folder: Path, programs: Mapping[str, Sequence[str]], backend: str = "process") -> None:
    """Have a Daemon in this folder know a profile for each program, which finds the modules of the benchmarks."""
    file = folder / "runtimed" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    tables = (
        f'[profiles."builtin:{name}"]\nbackend = "{backend}"\ncommand = {json.dumps(list(command))}\n'
        f"env = {{ PYTHONPATH = {json.dumps(str(REPOSITORY))} }}\n"
        for name, command in programs.items()
    )
    file.write_text("\n".join(tables))


def request(name: str) -> dict[str, Any]:
    """What to ask for a Worker that runs this program."""
    return {"profile": {"kind": "builtin", "value": f"builtin:{name}"}}
