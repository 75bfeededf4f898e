"""The build backend: setuptools', with man pages and completions that are generated when a wheel is built.

The generated files are in `build/share`, where `setup.cfg` has them among the data files.
"""

import shutil
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).parents[1]
SHARE = ROOT / "build" / "share"


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what setuptools needs, and what the commands need that the man pages describe."""
    metadata = ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    commands = metadata["options"]["install_requires"].split("\n")
    return [*build_meta.get_requires_for_build_wheel(config_settings), *filter(None, commands)]


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Generate man pages and completions, then build the wheel. Returns the name of its file."""
    from distribution import completions, manual

    shutil.rmtree(SHARE, ignore_errors=True)
    for path, text in {**manual.pages(), **completions.scripts()}.items():
        (SHARE / path).parent.mkdir(parents=True, exist_ok=True)
        (SHARE / path).write_text(text, encoding="utf-8")
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
