"""When what runs a Worker is started again by itself."""

import asyncio
from collections.abc import Callable

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.model.identity import WorkerId

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
"""The delay of the first restart and of the longest. It doubles until what was started has run for MAX_DELAY_S."""


@attrs.define
class _Planned:
    """The restart of a Worker that was planned last, in the loop's time; `started` is when it had succeeded."""

    at: float
    delay_s: float
    timer: asyncio.TimerHandle
    started: float | None = None


class Restarts:
    """Owns one timer for each Worker that is to be started again; `restart` is called when it is due."""

    def __init__(self, restart: Callable[[Mailbox], None]) -> None:
        self._restart = restart
        self._planned: dict[WorkerId, _Planned] = {}

    def plan(self, mailbox: Mailbox) -> None:
        """Have the Worker started again after a delay. Changes nothing where that is planned already."""
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
        """What runs this Worker was started just now. Harmless for one that nothing was planned for."""
        if planned := self._planned.get(worker_id):
            planned.started = asyncio.get_running_loop().time()

    def forget(self, worker_id: WorkerId) -> None:
        """Start this Worker no more. Harmless for one that nothing is planned for."""
        if planned := self._planned.pop(worker_id, None):
            planned.timer.cancel()

    def close(self) -> None:
        """Start nothing any more."""
        for name in tuple(self._planned):
            self.forget(name)
