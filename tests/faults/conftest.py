"""Options and requirements of the fault tests."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Rounds = Callable[[int, int], int]
Require = Callable[..., None]

CAP_SYS_ADMIN = 21
TIMEOUT_S = {"short": 600, "long": 7200}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give these tests longer time-outs: they start many daemons, and the machine may be busy."""
    limit = pytest.mark.timeout(TIMEOUT_S[config.getoption("faults")])
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(limit)


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> Rounds:
    """Choose a number: the first in a short run, the second with `--faults=long`."""
    wanted = request.config.getoption("faults")
    return lambda short, long: long if wanted == "long" else short


@pytest.fixture
def require() -> Require:
    """Skip the test if a program is missing or lacks permission, or if it needs root."""

    def check(*programs: str, root: bool = False) -> None:
        missing = [name for name in programs if shutil.which(name) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")
        if root and (os.geteuid() or not _may_administer()):
            pytest.skip("only root with CAP_SYS_ADMIN may do this")
        if (
            "strace" in programs
            and subprocess.run(["strace", "-D", "-o", os.devnull, "true"], check=False).returncode
        ):
            pytest.skip("strace may not trace here")

    return check


def _may_administer() -> bool:
    """Return whether this process may mount. In a container even root often may not."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> CAP_SYS_ADMIN & 1)
