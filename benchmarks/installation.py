"""A plain installation of this repository, as users have it: not editable, with required packages only."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import REPOSITORY

FOLDERS = ("runtimed", "runtimectl", "distribution", "docs", "contrib")
SOURCES = (
    *FOLDERS,
    "pyproject.toml",
    "setup.cfg",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "THIRD_PARTY.md",
)
"""What a wheel is built from."""


def install(folder: Path) -> Path:
    """Install into a new environment below `folder`, and return the folder of its programs."""
    environment, source = folder / "environment", folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, source / name)
    _run("venv", "--without-pip", str(environment))
    python = environment / "bin" / "python"
    _run("pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet", str(source))
    return environment / "bin"


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
