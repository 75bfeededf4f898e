"""How late the event loop runs what is due."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from runtimed.core.histogram import Histogram

PERIOD_S = 0.5
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Measures twice a second by how much the event loop is late.

    Attributes:
        seconds: The measurements, in seconds.
    """

    def __init__(self) -> None:
        self.seconds = Histogram(LAG_SECONDS)
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure the running event loop while the context lasts."""
        self._wait()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD_S
        self._timer = loop.call_at(due, self._measure, due)

    def _measure(self, due: float) -> None:
        self.seconds.observe(max(0.0, asyncio.get_running_loop().time() - due))
        self._wait()
