"""What both halves of these tests share: how long they go on, and what they need."""

import os
import shutil
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How often to repeat something: the first number in a short run, the second with `--faults=long`."""
    wanted = request.config.getoption("faults")
    return lambda short, long: long if wanted == "long" else short


@pytest.fixture
def require() -> Callable[..., None]:
    """Skip the test where a program is missing, or root where it must be root."""

    def check(*programs: str, root: bool = False) -> None:
        missing = [name for name in programs if shutil.which(name) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")
        if root and os.geteuid():
            pytest.skip("only root may do this")

    return check
