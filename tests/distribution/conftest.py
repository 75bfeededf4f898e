"""The packages of a release, built once from a copy of the repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]
BUILD_DEADLINE_S = 300
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".coverage*", ".hypothesis"
)


@attrs.frozen
class Release:
    """What a build makes.

    Attributes:
        sdist: The source distribution.
        wheel: The wheel that was built from it.
        direct: The wheel that was built from the repository.
    """

    sdist: Path
    wheel: Path
    direct: Path


def build(source: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, without what was built in it."""
    copy = tmp_path_factory.mktemp("source") / "runtimed"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    return copy


@pytest.fixture(scope="session")
def release(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    out = tmp_path_factory.mktemp("release")
    build(source, out)
    build(source, out / "direct", "--wheel")
    [sdist], [wheel], [direct] = out.glob("*.tar.gz"), out.glob("*.whl"), (out / "direct").glob("*.whl")
    return Release(sdist, wheel, direct)
