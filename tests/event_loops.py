"""The event loops that tests run on: asyncio's and, where it is installed, uvloop.

Only processes, pipes and sockets differ between the two. So a test without parameters runs on both, but each case of
a test with parameters on one, which its name decides. Tests of what stands upon the run machine run on one as well.
"""

import asyncio
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
ABOVE = (TESTS / "execution" / "acp", TESTS / "execution" / "workspaces")
"""What stands upon the run machine, whose own tests run on both."""


def loop_factories(config: pytest.Config) -> Mapping[str, Any]:
    """Return the factories of the event loops, by their names."""
    factories: dict[str, Any] = {"asyncio": asyncio.new_event_loop}
    if config.getoption("--loops") == "all":
        try:
            import uvloop
        except ImportError:
            return factories
        factories["uvloop"] = uvloop.new_event_loop
    return factories


def is_left_to_the_other_loop(item: pytest.Item) -> bool:
    """Return whether it is not the turn of the loop that a test would run on."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or "_asyncio_loop_factory" not in callspec.params:
        return False
    name, _, parameters = item.name.partition("[")
    loop, _, case = parameters.partition("-")
    is_on_both = not case and not any(item.path.is_relative_to(folder) for folder in ABOVE)
    turn = ("asyncio", "uvloop")[zlib.crc32(f"{name} {case}".encode()) % 2]
    return not is_on_both and not loop.startswith(turn)
