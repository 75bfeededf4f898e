"""Background tasks, each with an owner that ends it."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_finishing: WeakSet[asyncio.Task[Any]] = WeakSet()
log = logging.getLogger(__name__)


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task that is not awaited. A failure is logged. The owner of the task calls `finish`."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


async def finish(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait until they are over.

    A task is cancelled only once, even with several callers, so that its cleanup is not cut short.
    """
    for task in tasks:
        if task not in _finishing:
            _finishing.add(task)
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def completed(work: Awaitable[T]) -> T:
    """Await work that goes on to its end, and is waited for, however often the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is raised in the end
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # of a cancelled caller: nobody else retrieves it


async def ready_in_time(work: Awaitable[T], limit_s: float) -> T:
    """Await work that starts something.

    Args:
        work: What to await.
        limit_s: How long it may take, in seconds.

    Returns:
        The result of the work.

    Raises:
        TimeoutError: It took too long; the text names `start_timeout_s`.
    """
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"it was not ready within {limit_s:g} seconds (start_timeout_s)") from None


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a background task failed", exc_info=error)
