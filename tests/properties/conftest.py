"""How long the search goes on."""

from collections.abc import Callable

import pytest


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many examples to try: the first number in a short run, the second with `--faults=long`."""
    wanted = request.config.getoption("faults")
    return lambda short, long: long if wanted == "long" else short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long search the time that it takes."""
    if config.getoption("faults") == "long":
        for item in items:
            if "tests/properties" in item.path.as_posix():
                item.add_marker(pytest.mark.timeout(7_200))
