"""The event loop of the daemon, for the other programs of a run."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(program: Coroutine[Any, Any, None]) -> None:
    """Run a program on uvloop if it is installed, as the daemon does, or on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(program)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(program)
