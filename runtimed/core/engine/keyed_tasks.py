"""Work for Workers that goes on whatever becomes of whoever asked for it."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Generic, TypeVar

from runtimed.model.identity import WorkerId

T = TypeVar("T")


class KeyedTasks(Generic[T]):
    """Tasks that belong to the Runtime, at most one for each Worker, until they are done."""

    def __init__(self) -> None:
        self._tasks: dict[WorkerId, asyncio.Task[T]] = {}

    def __iter__(self) -> Iterator[WorkerId]:
        return iter(self._tasks)

    def __contains__(self, worker_id: WorkerId) -> bool:
        return worker_id in self._tasks

    def begin(self, worker_id: WorkerId, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work for a Worker that there is none for."""
        task = asyncio.get_running_loop().create_task(work, name=worker_id)
        self._tasks[worker_id] = task
        task.add_done_callback(self._done)
        return task

    async def run(self, worker_id: WorkerId, work: Coroutine[Any, Any, T]) -> T:
        """Begin work and return what comes of it; a caller that is cancelled leaves it going on."""
        return await asyncio.shield(self.begin(worker_id, work))

    async def outcome(self, worker_id: WorkerId) -> None:
        """Wait for the work for this Worker, where there is some, and raise what it raises."""
        if worker_id in self._tasks:
            await asyncio.shield(self._tasks[worker_id])

    async def over(self, worker_id: WorkerId) -> None:
        """Wait until there is no work for this Worker, whatever came of it."""
        if worker_id in self._tasks:
            await asyncio.wait([self._tasks[worker_id]])

    async def join(self) -> None:
        """Wait until all that was begun is done."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def cancel(self) -> None:
        """Break off all that was begun."""
        for task in self._tasks.values():
            task.cancel()
        await self.join()

    def _done(self, task: asyncio.Task[T]) -> None:
        del self._tasks[WorkerId(task.get_name())]
        if not task.cancelled():
            task.exception()
