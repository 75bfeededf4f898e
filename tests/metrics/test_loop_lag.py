"""The measurement of the event loop."""

import asyncio

import pytest

from runtimed.metrics import loop_lag
from runtimed.metrics.loop_lag import LoopLag

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def short_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "PERIOD_S", 0.01)


async def measured(lag: LoopLag, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while lag.seconds.count < count:
            await asyncio.sleep(0.001)


async def test_a_loop_that_was_held_up_shows_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    lag, loop = LoopLag(), asyncio.get_running_loop()
    with lag.measuring():
        await measured(lag, 2)
        before = lag.seconds.sum
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + 3.0)
        await measured(lag, lag.seconds.count + 2)

    assert lag.seconds.sum - before >= 2.9


async def test_nothing_is_measured_before_and_after() -> None:
    lag = LoopLag()
    await asyncio.sleep(0.02)
    assert lag.seconds.count == 0
    with lag.measuring():
        await measured(lag, 1)
    seen = lag.seconds.count

    await asyncio.sleep(0.03)

    assert lag.seconds.count == seen
