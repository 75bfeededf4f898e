"""Background tasks that belong to somebody."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from weakref import WeakSet

_finishing: WeakSet[asyncio.Task[Any]] = WeakSet()
_log = logging.getLogger(__name__)


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task for work that nobody waits for: should it fail, the log says so. Its owner calls `finish`."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


async def finish(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait until they are over.

    Each is cancelled once, whoever else wants it to be over: what it ends then must come to its end.
    """
    for task in tasks:
        if task not in _finishing:
            _finishing.add(task)
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("a background task failed", exc_info=error)
