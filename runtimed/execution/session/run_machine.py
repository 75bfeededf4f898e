"""The life of a Worker's runs, the same for every kind of program."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import Driver, DriverError, Progress, Run, SpawnRejected
from runtimed.execution.session.exit_reason import delivery_failure, failure_text
from runtimed.execution.session.run_slot import RunSlot
from runtimed.execution.session.text_output import QUIET_S
from runtimed.execution.tasks import begin, finish, ready_in_time
from runtimed.model.event import ErrorRaised, InvokeStart, Payload, RunEnd
from runtimed.model.execution import LossReason, Outcome

NOTHING_RUNS = BackendAnswer("errored", "nothing runs this Worker")

KILL_PAUSE_S = 0.5
"""How long a killed program may at least take to be gone before it is killed again."""

START_MARGIN_S = 1.0
"""How much longer than `start_timeout_s` a start may take, so that the driver itself can report what was late."""

_EXPECTED = (OSError, DriverError)
log = logging.getLogger(__name__)


class RunMachine:
    """Runs one Worker from its spawn to its end: one task reads its program and emits how its runs begin and end.

    All drivers share the slot, the interrupt, the limits of time and output, the loss of the program and the guard
    against failures of the driver. `lost` is set once the loss was reported to the sink.
    """

    def __init__(self, driver: Driver, profile: Profile, spawn: Spawn, sink: EventSink) -> None:
        self._driver = driver
        self._profile = profile
        self._spawn = spawn
        self._sink = sink
        self._slot = RunSlot()
        self._next: Run | None = None
        self._current: Run | None = None
        self._excess: LossReason | None = None
        self._settling: asyncio.Future[None] | None = None
        self._released = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self.lost = False

    async def open(self) -> BackendAnswer:
        """Start the program. Answers `errored` if that fails, or if the Worker is ended meanwhile."""
        noun = self._driver.noun
        starting = self._task = asyncio.create_task(self._driver.start(self._spawn.history))
        await asyncio.wait({starting})
        if self._ending or starting.cancelled():
            return BackendAnswer("errored", f"the Worker was ended before its {noun} was ready")
        if error := starting.exception():
            unknown = None if isinstance(error, _EXPECTED) else error
            fields = {"worker_id": self._spawn.worker_id, "program": noun, "reason": error}
            log.error("cannot start the program of a Worker", exc_info=unknown, extra=fields)
            outcome: Outcome = "rejected" if isinstance(error, SpawnRejected) else "errored"
            return BackendAnswer(outcome, f"the {noun} could not be started: {failure_text(error)}")
        self._task = begin(self._live(starting.result()))
        return BackendAnswer("accepted")

    async def offer(self, dispatch: Dispatch) -> BackendAnswer:
        """Accept or refuse an input. Output from before is emitted before the input is accepted."""
        if refusal := self._driver.refusal(dispatch):
            return refusal
        if self._ending or self.lost or self._task is None or self._task.done():
            return NOTHING_RUNS
        answer = self._slot.offer(dispatch)
        if answer.outcome == "accepted" and not await self._settled(self._task):
            self._slot.withdraw(dispatch.input_id)
            return NOTHING_RUNS
        return answer

    def start(self, input_id: str) -> None:
        """Let the accepted input run. Returns at once."""
        dispatch = self._slot.start(input_id)
        self._released.set()
        if dispatch is not None and not self.lost:
            self._next = self._current = Run(dispatch)
            self._driver.wake()

    def withdraw(self, input_id: str) -> None:
        """Forget the accepted input. Returns at once."""
        self._slot.withdraw(input_id)
        self._released.set()

    async def interrupt(self, grace_s: float) -> None:
        """End the current run, and kill the program if it has not ended the run after `grace_s` seconds.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        run = self._current
        if run is None:
            return
        run.is_interrupted, run.grace_s = True, grace_s
        self._driver.wake()
        wait_s = grace_s
        while not await self._ends(run, wait_s):
            run.is_killed, wait_s = True, max(grace_s, KILL_PAUSE_S)
            await self._driver.kill()
        await run.over.wait()

    async def end(self, grace_s: float) -> None:
        """Emit nothing more, then end the program within `grace_s` seconds.

        Raises:
            TimeoutError: Processes resist being killed.
        """
        self._ending = True
        await finish(*(task for task in (self._task, *self._tasks) if task is not None))
        self._task = None
        if self._current is not None:
            self._current.over.set()
        await self._driver.close(grace_s)

    async def _ends(self, run: Run, within_s: float) -> bool:
        """Wait for the end of a run. Returns whether it has ended; a `run_end` that waits for the sink counts."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.over.wait(), within_s)
        return run.over.is_set() or self._current is not run

    async def _settled(self, task: asyncio.Task[Any]) -> bool:
        settled = self._settling = asyncio.get_running_loop().create_future()
        self._driver.wake()
        await asyncio.wait({settled, task}, return_when=asyncio.FIRST_COMPLETED)
        return settled.done()

    async def _live(self, alerts: Sequence[Payload]) -> None:
        try:
            await self._emit(alerts)
            while not self.lost:
                await self._step()
        except Exception as error:
            log.exception("cannot pass on the output of a program", extra={"program": self._driver.noun})
            await self._give_up(error)

    async def _step(self) -> None:
        if self._next is not None:
            run, self._next = self._next, None
            await self._run(run)
        elif self._settling is not None:
            await self._settle(self._settling)
        else:
            await self._listen()

    async def _settle(self, settled: asyncio.Future[None]) -> None:
        """Emit the output from before an offer. Later output may wait until the input is started or withdrawn."""
        self._settling = None
        await self._driver.flush()
        settled.set_result(None)
        while self._driver.holds_output and self._slot.has_offer and self._settling is None:
            self._released.clear()
            await self._released.wait()

    async def _listen(self) -> None:
        """Emit output between two runs, and close its text after QUIET_S of silence."""
        received = self._driver.received
        with self._timer(QUIET_S if self._driver.has_open_text else 0, self._driver.wake):
            progress = await self._driver.read()
        if progress == "exited":
            await self._after_exit(None)
        elif self._driver.received == received and self._next is None and self._settling is None:
            await self._driver.close_text()

    async def _run(self, run: Run) -> None:
        self._excess = None
        await self._driver.begin_run()
        await self._sink.emit(InvokeStart("user_send" if run.dispatch.input.kind == "user" else "notify"))
        try:
            await self._driver.write(run)
        except DriverError as error:
            fields = {"worker_id": self._spawn.worker_id, "reason": error.__cause__ or error}
            log.error("cannot run an input", extra=fields)
            await self._finish(run, (ErrorRaised("internal", str(error)), RunEnd("rolled_back")))
            return
        with self._timer(self._profile.max_run_s, lambda: self._exceed("timeout")):
            progress = await self._follow(run)
        if progress == "over":
            await self._finish(run, await self._driver.end_run(run))
        else:
            await self._after_exit(run)

    async def _follow(self, run: Run) -> Progress:
        """Read until the run is over, the program is gone, or a limit is exceeded."""
        received, is_asked = self._driver.received, False
        while True:
            if run.is_interrupted and not is_asked:
                is_asked = True
                self._begin_task(self._driver.interrupt())
            progress = await self._driver.read()
            if progress == "running" and 0 < self._profile.max_output_bytes < self._driver.received - received:
                self._exceed("output")
            if self._excess is not None and progress == "running":
                return "exited"
            if progress != "running":
                return progress

    def _exceed(self, reason: LossReason) -> None:
        """End the program for this reason at once, because the machine itself may be waiting for its sink."""
        if self._excess is None:
            self._excess = reason
            self._begin_task(self._kill())
            self._driver.wake()

    async def _kill(self) -> None:
        try:
            await self._driver.kill()
        except TimeoutError as error:
            fields = {"worker_id": self._spawn.worker_id, "program": self._driver.noun, "reason": error}
            log.error("not all of a killed program has ended", extra=fields)

    async def _after_exit(self, run: Run | None) -> None:
        """End the run of a program that is gone, and start another program or lose the Worker."""
        excess, self._excess = self._excess, None
        exit_ = await self._driver.reap(excess, run)
        if exit_.ending is None:
            await self._lose(exit_.reason, exit_.message)
            return
        if run is not None:
            await self._finish(run, exit_.ending)
        if self._profile.restart == "never":
            await self._lose(exit_.reason, exit_.message)
        else:
            await self._restart()

    async def _restart(self) -> None:
        try:
            starting = self._driver.restart()
            alerts = await ready_in_time(starting, self._profile.start_timeout_s + START_MARGIN_S)
        except _EXPECTED as error:
            reason: LossReason = "unresponsive" if isinstance(error, DriverError) else "exit"
            message = f"the {self._driver.noun} could not be started again: {failure_text(error)}"
            await self._lose(reason, message)
        else:
            await self._emit(alerts)

    async def _finish(self, run: Run, payloads: Sequence[Payload]) -> None:
        """End the run. The slot is free before `run_end` is emitted."""
        self._slot.finish()
        self._current = None
        try:
            await self._emit(payloads)
        finally:
            run.over.set()

    async def _give_up(self, error: Exception) -> None:
        try:
            await self._driver.close(0)
        except Exception:
            fields = {"worker_id": self._spawn.worker_id, "program": self._driver.noun}
            log.exception("cannot end a program after a failure of its driver", extra=fields)
        await self._lose("protocol", delivery_failure(error, self._driver.noun))

    async def _lose(self, reason: LossReason, message: str) -> None:
        """Report the loss of the program to the sink, after nothing of it is left."""
        self.lost = True
        self._slot.finish()
        try:
            await self._sink.lose(reason, message)
        finally:
            if self._current is not None:
                self._current.over.set()

    async def _emit(self, payloads: Sequence[Payload]) -> None:
        if payloads:
            await self._sink.emit(*payloads)

    @contextlib.contextmanager
    def _timer(self, after_s: float, act: Callable[[], object]) -> Iterator[None]:
        """Call `act` after this many seconds, unless the block has ended by then. With 0 it is never called."""
        timer = asyncio.get_running_loop().call_later(after_s, act) if after_s else None
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
