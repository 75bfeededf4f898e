"""Programs that are started by the launcher."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from runtimed.execution.confinement.instructions import Instructions, argv
from runtimed.execution.processes.confinement import Launch

DEADLINE_S = 60.0
SYSTEM = tuple(Path(path).resolve() for path in ("/usr", "/bin", "/lib", "/lib64", "/etc") if Path(path).exists())
PYTHON = Path(sys.executable).resolve()
PYTHON_FOLDERS = (*SYSTEM, Path(sys.base_prefix).resolve())


def launch(
    instructions: Instructions,
    *command: str,
    env: Mapping[str, str] | None = None,
    also_open: Sequence[int] = (),
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program under the launcher to its end, and return its status and output.

    `also_open` are descriptors that the launcher inherits, `prefix` is a command that runs it.
    """
    descriptor = instructions.descriptor()
    try:
        return subprocess.run(
            [*prefix, *argv(command, descriptor)],
            env=os.environ if env is None else env,
            pass_fds=(descriptor, *also_open),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        os.close(descriptor)


def finish(launch: Launch) -> subprocess.CompletedProcess[str]:
    """Run a confined program to its end, and return its status and output."""
    try:
        return subprocess.run(
            launch.argv,
            env=launch.env,
            pass_fds=launch.descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        for descriptor in launch.descriptors:
            os.close(descriptor)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter too."""
    with TemporaryDirectory(prefix="confinement-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve()
