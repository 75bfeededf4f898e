"""Tasks by Worker id."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Generic, TypeVar

from runtimed.model.identity import WorkerId

T = TypeVar("T")


class KeyedTasks(Generic[T]):
    """At most one task for each Worker. A task continues if its caller is cancelled."""

    def __init__(self) -> None:
        self._tasks: dict[WorkerId, asyncio.Task[T]] = {}

    def __iter__(self) -> Iterator[WorkerId]:
        return iter(self._tasks)

    def __contains__(self, worker_id: WorkerId) -> bool:
        return worker_id in self._tasks

    def begin(self, worker_id: WorkerId, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin the task of a Worker that has none."""
        task = asyncio.get_running_loop().create_task(work, name=worker_id)
        self._tasks[worker_id] = task
        task.add_done_callback(self._done)
        return task

    async def run(self, worker_id: WorkerId, work: Coroutine[Any, Any, T]) -> T:
        """Begin the task of a Worker and return its result."""
        return await asyncio.shield(self.begin(worker_id, work))

    async def outcome(self, worker_id: WorkerId) -> None:
        """Wait for the Worker's task, if there is one, and raise what it raises."""
        if worker_id in self._tasks:
            await asyncio.shield(self._tasks[worker_id])

    async def over(self, worker_id: WorkerId) -> None:
        """Wait until the Worker has no task, whatever its outcome."""
        while task := self._tasks.get(worker_id):
            await asyncio.wait({task})

    async def join(self) -> None:
        """Wait for the tasks of all Workers."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def cancel(self) -> None:
        """Cancel the tasks of all Workers and wait for them."""
        for task in self._tasks.values():
            task.cancel()
        await self.join()

    def _done(self, task: asyncio.Task[T]) -> None:
        del self._tasks[WorkerId(task.get_name())]
        if not task.cancelled():
            task.exception()
