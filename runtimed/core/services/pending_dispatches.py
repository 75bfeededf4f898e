"""The inputs that are on their way to the backend."""

import asyncio
from collections import Counter

from runtimed.model.identity import WorkerId


class PendingDispatches:
    """How many inputs of each Worker a backend was offered that are neither stored nor taken back yet."""

    def __init__(self) -> None:
        self._counts: Counter[WorkerId] = Counter()
        self._settled: dict[WorkerId, asyncio.Event] = {}

    def add(self, worker_id: WorkerId) -> None:
        """One more is on its way."""
        self._counts[worker_id] += 1

    def remove(self, worker_id: WorkerId) -> None:
        """One has come to its end."""
        self._counts[worker_id] -= 1
        if not self._counts[worker_id]:
            del self._counts[worker_id]
            if settled := self._settled.pop(worker_id, None):
                settled.set()

    async def settled(self, worker_id: WorkerId) -> None:
        """Wait until none of this Worker is on its way."""
        if worker_id in self._counts:
            await self._settled.setdefault(worker_id, asyncio.Event()).wait()
