"""The dispatches that are neither committed nor withdrawn."""

import asyncio

from runtimed.model.identity import WorkerId


class PendingDispatches:
    """Counts the pending dispatches of each Worker."""

    def __init__(self) -> None:
        self._counts: dict[WorkerId, int] = {}
        self._settled: dict[WorkerId, asyncio.Event] = {}

    def add(self, worker_id: WorkerId) -> None:
        """Count one more."""
        self._counts[worker_id] = self._counts.get(worker_id, 0) + 1

    def remove(self, worker_id: WorkerId) -> None:
        """Count one less: it is committed or withdrawn."""
        left = self._counts[worker_id] - 1
        if left:
            self._counts[worker_id] = left
        else:
            del self._counts[worker_id]
            if settled := self._settled.pop(worker_id, None):
                settled.set()

    async def settled(self, worker_id: WorkerId) -> None:
        """Wait until the Worker has no pending dispatch."""
        if worker_id in self._counts:
            await self._settled.setdefault(worker_id, asyncio.Event()).wait()
