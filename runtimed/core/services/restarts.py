"""Plan the restarts of Workers whose program was lost."""

import asyncio
from collections.abc import Callable

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.model.identity import WorkerId

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
"""The first and the longest delay. It doubles until a restarted program has run for MAX_DELAY_S."""


@attrs.define
class _Planned:
    """The last planned restart of a Worker. Times are the event loop's; `started` is when the restart succeeded."""

    at: float
    delay_s: float
    timer: asyncio.TimerHandle
    started: float | None = None


class Restarts:
    """One timer for each Worker that is to be restarted. `restart` is called when it is due."""

    def __init__(self, restart: Callable[[Mailbox], None]) -> None:
        self._restart = restart
        self._planned: dict[WorkerId, _Planned] = {}

    def plan(self, mailbox: Mailbox) -> None:
        """Restart the Worker after a delay. Does nothing if that is planned already."""
        loop, name = asyncio.get_running_loop(), mailbox.worker.worker_id
        now, before = loop.time(), self._planned.get(name)
        if before is not None and now < before.at:
            return
        delay_s = FIRST_DELAY_S
        if before is not None and (before.started is None or now - before.started < MAX_DELAY_S):
            delay_s = min(before.delay_s * 2, MAX_DELAY_S)
        timer = loop.call_later(delay_s, self._restart, mailbox)
        self._planned[name] = _Planned(now + delay_s, delay_s, timer)

    def note_start(self, worker_id: WorkerId) -> None:
        """Note that the Worker was started just now. Does nothing for one without a planned restart."""
        if planned := self._planned.get(worker_id):
            planned.started = asyncio.get_running_loop().time()

    def forget(self, worker_id: WorkerId) -> None:
        """Cancel the planned restart of a Worker. Does nothing for one without."""
        if planned := self._planned.pop(worker_id, None):
            planned.timer.cancel()

    def close(self) -> None:
        """Cancel all planned restarts."""
        for name in tuple(self._planned):
            self.forget(name)
