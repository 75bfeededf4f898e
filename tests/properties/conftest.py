"""How long the search goes on."""

from collections.abc import Callable

import pytest


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many examples to try: the first number in a short run, the second with `--faults=long`."""
    wanted = request.config.getoption("faults")
    return lambda short, long: long if wanted == "long" else short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long search the time that it takes, and leave out of a short one what only that can find."""
    if config.getoption("faults") == "long":
        for item in items:
            if "tests/properties" in item.path.as_posix():
                item.add_marker(pytest.mark.timeout(7_200))
        return
    long_ones = [item for item in items if item.get_closest_marker("at_length")]
    items[:] = [item for item in items if item not in long_ones]
    config.hook.pytest_deselected(items=long_ones)
