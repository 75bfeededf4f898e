"""The process that a sandbox holds in its namespaces until its ways out listen there."""

import asyncio
import contextlib
import json
import os

from runtimed.execution.processes import orphans
from runtimed.execution.processes.confinement import Launch
from runtimed.execution.processes.containment import CONFINED
from runtimed.execution.processes.pipes import readable

SANDBOX_DEADLINE_S = 20.0
"""How long a sandbox may take until its namespaces are there."""

MAX_TOLD_BYTES = 4096
"""The most that it says about them."""


async def held_process(launch: Launch, root: int) -> tuple[int, int | None] | None:
    """Wait until a sandbox says which process is in its network namespace, and which that is. None if it has ended.

    Raises:
        OSError: It takes too long, or the process cannot be found.
    """
    told, pipe = b"", launch.pid_pipe
    if pipe is None:
        return None
    try:
        async with asyncio.timeout(SANDBOX_DEADLINE_S):
            while len(told) < MAX_TOLD_BYTES:
                await readable([pipe])
                data = os.read(pipe, MAX_TOLD_BYTES)
                told += data
                if not data:
                    break
    except TimeoutError:
        raise OSError(f"the sandbox was not there within {SANDBOX_DEADLINE_S:g} s") from None
    try:
        info = json.loads(told)
        pid, namespace = info["child-pid"], info.get("net-namespace")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if pid not in await asyncio.to_thread(CONFINED.members, root, ""):
        if await asyncio.to_thread(orphans.has_ended, pid):
            return None
        raise OSError("the process of the sandbox cannot be found")
    return pid, namespace


async def has_ended(held: tuple[int, int | None] | None) -> bool:
    """Return whether it is certain that the process in a sandbox has ended."""
    with contextlib.suppress(OSError):
        return held is not None and await asyncio.to_thread(orphans.has_ended, held[0])
    return False
