"""Background tasks that belong to somebody."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

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


async def ready_in_time(work: Awaitable[T], limit_s: float) -> T:
    """The outcome of work that starts something. Raises TimeoutError, with words for it, where it takes too long."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"it was not ready within {limit_s:g} seconds (start_timeout_s)") from None


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("a background task failed", exc_info=error)
