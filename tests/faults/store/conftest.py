"""Daemons on the folder of a test, and faults for them."""

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import SHAPES, check
from tests.acceptance.daemon.conftest import Daemon, Launch, Until, until
from tests.conftest import granting
from tests.faults.store.ledger import Ledger

UNPROTECTED = Path(__file__).parent / "programs" / "unprotected.py"


@pytest.fixture
def launch(tmp_path: Path, scripts: Path) -> Iterator[Launch]:
    """Start daemons on `store`, whose Workers can write to `scripts`; those that still run at the end are killed.

    `without` names a protection that the daemon runs without, see programs/unprotected.py; `under` is a program and
    its arguments that runs it.
    """
    config = tmp_path / "config" / "runtimed" / "config.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(granting(scripts))
    with contextlib.ExitStack() as made:

        def start(
            *options: str,
            store: Path | None = None,
            without: str | None = None,
            under: Sequence[str] = (),
            environment: Mapping[str, str] | None = None,
        ) -> Daemon:
            wrapper = [*under, *([sys.executable, str(UNPROTECTED), without] if without else [])]
            folder = store or tmp_path / "store"
            one = Daemon(tmp_path, _shaped, f"fs:{folder}", options, environment, wrapper=wrapper)
            made.callback(one.kill)
            return one

        yield start


def _shaped(value: Any, name: str) -> None:
    check(value, SHAPES[name])


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def chance() -> random.Random:
    """A random generator that repeats with the same `-p randomly` seed."""
    return random.Random(random.getrandbits(64))


@pytest.fixture
def scripts(shared: Path) -> Path:
    """The folder in which shell Workers record what they run."""
    return shared


@pytest.fixture(name="until")
def until_fixture() -> Until:
    return until
