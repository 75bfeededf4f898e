"""Dispatches that a queued input waits for: those neither committed nor withdrawn."""

import asyncio

from runtimed.core.services.queue_dispatcher import PendingDispatches
from runtimed.model.identity import worker_id

FIRST, SECOND = worker_id(1), worker_id(2)


async def test_a_wait_ends_with_the_last_pending_dispatch_of_its_worker() -> None:
    pending = PendingDispatches()
    for name in (FIRST, FIRST, SECOND):
        pending.add(name)
    settled = asyncio.create_task(pending.settled(FIRST))

    pending.remove(FIRST)
    await asyncio.sleep(0)
    assert not settled.done()

    pending.remove(FIRST)
    async with asyncio.timeout(10):
        await settled
        await pending.settled(FIRST)
