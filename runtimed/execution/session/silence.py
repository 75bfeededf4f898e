"""Watch runs for silence: alert people, and interrupt a run that stays silent."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runtimed.core.ports import EventSink
from runtimed.execution.profile import Profile
from runtimed.execution.session.exit_reason import explain_exit
from runtimed.execution.session.warnings import alert
from runtimed.execution.tasks import begin, finish
from runtimed.model.event import ErrorRaised, InvokeStart, Payload, RunEnd
from runtimed.model.execution import LossReason
from runtimed.model.permission import Question, Ruling

CLOCK_TOLERANCE_S = 0.001
"""How much before its time a timer of the event loop may fire."""

log = logging.getLogger(__name__)


class WatchedSink:
    """The EventSink of a driver, which measures how long a run emits nothing.

    An alert is emitted after `quiet_alert_s`, then after twice that, and so on. After `max_silence_s` the run is
    interrupted, and again after that time if the interrupt fails; the run ends with an error whose reason is
    `silence`. The clock rests while a permission waits for its answer, and while the sink makes the driver wait.
    The owner calls `close`.
    """

    def __init__(self, profile: Profile, sink: EventSink) -> None:
        self._profile = profile
        self._sink = sink
        self._interrupt: Callable[[], Awaitable[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._is_cut = False
        self._blocked = 0
        self._heard_at = 0.0
        self._counted_from = 0.0
        self._alert_after_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def interrupt_by(self, interrupt: Callable[[], Awaitable[None]]) -> None:
        """Set what interrupts a run that is silent for too long."""
        self._interrupt = interrupt

    async def emit(self, *payloads: Payload) -> None:
        """Emit events. Without any, only note that the program showed a sign of life."""
        if not payloads:
            self._heard_at = self._loop.time()
            return
        for payload in payloads:
            if isinstance(payload, InvokeStart):
                self._begin_run()
            elif isinstance(payload, RunEnd):
                payloads = self._ended(payloads)
        self._blocked += 1
        try:
            await self._sink.emit(*payloads)
        finally:
            self._blocked -= 1
            self._heard_at = self._loop.time()

    async def ask(self, question: Question) -> Ruling:
        self._blocked += 1
        try:
            return await self._sink.ask(question)
        finally:
            self._blocked -= 1
            self._heard_at = self._loop.time()

    async def lose(self, reason: LossReason, message: str) -> None:
        if self._is_cut:
            reason, message = "silence", f"{self._silence()}; {message}"
        self._end_run()
        await self._sink.lose(reason, message)

    async def close(self) -> None:
        """Stop watching. May be called again."""
        self._interrupt = None
        self._end_run()
        await finish(*self._tasks)

    def _begin_run(self) -> None:
        self._end_run()
        self._heard_at = self._counted_from = self._loop.time()
        self._alert_after_s = self._profile.quiet_alert_s or math.inf
        self._arm()

    def _end_run(self) -> None:
        self._is_cut = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ended(self, payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        """Return the last events of a run. If it was interrupted for its silence, that becomes the error."""
        if self._is_cut:
            error = ErrorRaised("internal", self._silence(), "silence")
            others = [_without_error(payload) for payload in payloads if not isinstance(payload, RunEnd)]
            payloads = (*others, error, RunEnd("rolled_back"))
        self._end_run()
        return payloads

    def _arm(self) -> None:
        due_s = min(self._alert_after_s, self._profile.max_silence_s or math.inf)
        if due_s < math.inf:
            self._timer = self._loop.call_at(self._heard_at + due_s, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if self._blocked:
            self._heard_at = now
        if self._heard_at != self._counted_from:
            self._counted_from = self._heard_at
            self._alert_after_s = self._profile.quiet_alert_s or math.inf
        silent_s = now - self._heard_at + CLOCK_TOLERANCE_S
        if 0 < self._profile.max_silence_s <= silent_s:
            self._is_cut = True
            self._begin_task(self._end_silence())
            return
        if silent_s >= self._alert_after_s:
            self._begin_task(self._alert(self._alert_after_s))
            self._alert_after_s *= 2
        self._arm()

    async def _alert(self, silent_s: float) -> None:
        await self._sink.emit(alert(f"the run has emitted nothing for {silent_s:g} s (quiet_alert_s)"))

    async def _end_silence(self) -> None:
        try:
            if self._interrupt is not None:
                await self._interrupt()
        except Exception as error:
            unknown = None if isinstance(error, TimeoutError) else error
            log.error("cannot end a silent run", exc_info=unknown, extra={"reason": error})
            if self._is_cut:
                self._heard_at = self._loop.time()
                self._arm()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _silence(self) -> str:
        return explain_exit("silence", 0, self._profile, what="run")


def _without_error(payload: Payload) -> Payload:
    """Turn an error into an alert, because the run ends with another error."""
    if isinstance(payload, ErrorRaised):
        return alert(f"the program reports an error: {payload.message}", "error")
    return payload
