"""A backend that runs a function, for programs that embed a Runtime."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.session.run_machine import NOTHING_RUNS
from runtimed.execution.session.run_slot import RunSlot
from runtimed.execution.session.warnings import alert
from runtimed.execution.tasks import begin, finish
from runtimed.model.event import ErrorRaised, InvokeStart, RunEnd
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import WorkerInput

Run = Callable[[WorkerInput, EventSink], Awaitable[None]]

log = logging.getLogger(__name__)


class FunctionBackend:
    """An ExecutionBackend that awaits a function for each input, one at a time for each Worker.

    It emits `invoke_start` before the call and `run_end` after it, and an `error` if the call raises. The call is
    cancelled when its run is interrupted or its Worker is stopped.

    Args:
        run: Called with the input and the Worker's sink.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._workers: dict[WorkerId, _Worker] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        if spawn.worker_id in self._workers:
            return BackendAnswer("rejected", "this Worker is running already")
        self._workers[spawn.worker_id] = _Worker(self._run, sink)
        return BackendAnswer("accepted")

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        worker = self._workers.get(dispatch.worker_id)
        return worker.slot.offer(dispatch) if worker else NOTHING_RUNS

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if worker := self._workers.get(worker_id):
            worker.start(input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if worker := self._workers.get(worker_id):
            worker.slot.withdraw(input_id)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        if worker := self._workers.get(worker_id):
            await worker.interrupt()
        return BackendAnswer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        if worker := self._workers.pop(worker_id, None):
            await worker.end()
        return BackendAnswer("accepted")

    cancel = stop

    async def delete(self, worker_id: WorkerId) -> None:
        """Do nothing: this backend keeps nothing of a Worker."""

    async def close(self) -> None:
        workers, self._workers = self._workers, {}
        await asyncio.gather(*(worker.end() for worker in workers.values()))


class _Worker:
    """One Worker and the tasks of its runs: one may begin while the `run_end` of the last waits for the sink."""

    __slots__ = ("_current", "_ended", "_run", "_sink", "_tasks", "slot")

    def __init__(self, run: Run, sink: EventSink) -> None:
        self.slot = RunSlot()
        self._run = run
        self._sink = sink
        self._tasks: list[asyncio.Task[None]] = []
        self._current: asyncio.Task[None] | None = None
        self._ended = False

    def start(self, input_id: str) -> None:
        if dispatch := self.slot.start(input_id):
            task = self._current = begin(self._go(dispatch.input))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _go(self, message: WorkerInput) -> None:
        await self._sink.emit(InvokeStart("user_send" if message.kind == "user" else "notify"))
        try:
            await self._run(message, self._sink)
        except Exception:
            log.exception("a run failed")
            self.slot.finish()
            await self._sink.emit(ErrorRaised("internal", "the run failed"), RunEnd("rolled_back"))
        else:
            self.slot.finish()
            await self._sink.emit(RunEnd("finished"))

    async def interrupt(self) -> None:
        if self._current is None or self._current.done():
            return
        await finish(self._current)
        if self.slot.is_running and not self._ended:
            self.slot.finish()
            await self._sink.emit(alert("the run was interrupted"), RunEnd("rolled_back"))

    async def end(self) -> None:
        self._ended = True
        await finish(*self._tasks)
