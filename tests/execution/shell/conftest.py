"""Which tests of the shell run with each way to keep a process tree together."""

import zlib
from pathlib import Path

import pytest

WAYS = ("namespace", "group")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave each case of a test with parameters one way, which its name decides; tests of processes try both."""
    folder = Path(__file__).parent
    dropped = {item for item in items if item.path.is_relative_to(folder) and _is_left_to_the_other_way(item)}
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=list(dropped))


def _is_left_to_the_other_way(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    way = callspec.params.get("contained") if callspec else None
    if callspec is None or way is None:
        return False
    case = [part for part in callspec.id.split("-") if part not in {way, "asyncio", "uvloop"}]
    turn = WAYS[zlib.crc32(f"{item.name.partition('[')[0]} {case}".encode()) % 2]
    return bool(case) and way != turn
