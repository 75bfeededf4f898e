"""Lists of Workers, page by page."""

import asyncio
from typing import ClassVar

from runtimed.core import Runtime
from runtimed.core.engine.worker_registry import WorkerFilter
from runtimed.core.state.change import Worker
from runtimed.model.identity import WorkerId
from runtimed.model.value import value


@value
class Counting(WorkerFilter):
    """Remembers which Workers it was asked about."""

    asked: ClassVar[list[WorkerId]] = []

    def matches(self, worker: Worker) -> bool:
        self.asked.append(worker.worker_id)
        return super().matches(worker)


async def test_a_page_of_workers_examines_no_more_workers_than_it_needs(runtime: Runtime) -> None:
    made = [worker.worker_id for worker in await asyncio.gather(*(runtime.create_worker() for _ in range(50)))]
    for number in (0, 20):
        after = made[number - 1] if number else ""
        Counting.asked.clear()
        page = runtime.workers(Counting(after=after, limit=3))
        assert [worker.worker_id for worker in page] == Counting.asked == made[number : number + 3]
