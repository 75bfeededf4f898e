"""Tasks that belong to somebody, and how they are ended."""

import asyncio

import pytest

from runtimed.execution.tasks import begin, completed, finish


async def test_a_task_that_two_want_to_be_over_ends_what_it_began() -> None:
    begun, free, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await free.wait()
            ended.set()

    task = begin(work())
    await begun.wait()
    both = [asyncio.create_task(finish(task)) for _ in range(2)]
    await asyncio.sleep(0.01)
    both.append(asyncio.create_task(finish(task)))
    await asyncio.sleep(0.01)
    assert not task.done()
    free.set()
    await asyncio.gather(*both)
    assert ended.is_set()


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_work_is_completed_before_its_cancelled_caller_goes_on(cancellations: int) -> None:
    begun, free = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await free.wait()

    caller = asyncio.create_task(completed(work()))
    await begun.wait()
    for _ in range(cancellations):
        caller.cancel()
        await asyncio.wait({caller}, timeout=0.01)
        assert not caller.done()
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
