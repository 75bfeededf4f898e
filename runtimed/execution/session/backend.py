"""A backend that has a program for each Worker."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import attrs

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import Driver
from runtimed.execution.session.run_machine import NOTHING_RUNS, START_MARGIN_S, RunMachine
from runtimed.execution.session.silence import WatchedSink
from runtimed.execution.tasks import finish
from runtimed.model.identity import WorkerId

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class _Worker:
    """The run machine of one Worker, and the sink that knows how long it has been silent."""

    machine: RunMachine
    sink: WatchedSink


class SessionBackend:
    """An ExecutionBackend that keeps a run machine for each Worker of one profile.

    Args:
        new_driver: Makes the driver of a Worker, which emits to the sink that it is given.
        profile: How the programs of the Workers are run.
    """

    def __init__(self, new_driver: Callable[[Spawn, EventSink], Driver], profile: Profile) -> None:
        self._new_driver = new_driver
        self._profile = profile
        self._workers: dict[WorkerId, _Worker] = {}

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        before = self._workers.get(spawn.worker_id)
        if before is not None and not before.machine.lost:
            return BackendAnswer("rejected", "this Worker is running already")
        watched_sink = WatchedSink(self._profile, sink)
        machine = RunMachine(self._new_driver(spawn, watched_sink), self._profile, spawn, watched_sink)
        watched_sink.interrupt_by(partial(machine.interrupt, self._profile.stop_grace_s))
        worker = self._workers[spawn.worker_id] = _Worker(machine, watched_sink)
        is_running = False
        try:
            answer = await self._open(machine)
            is_running = answer.outcome == "accepted"
        finally:
            if not is_running:
                self._forget(spawn.worker_id, worker)
        return answer

    async def _open(self, machine: RunMachine) -> BackendAnswer:
        """Start the program of a Worker. A program that is not ready in time is ended."""
        limit_s = self._profile.start_timeout_s
        opening = asyncio.create_task(machine.open())
        try:
            done, _ = await asyncio.wait({opening}, timeout=limit_s + START_MARGIN_S)
            if done:
                return opening.result()
            await machine.end(0)
        except TimeoutError as error:
            return BackendAnswer("errored", str(error))
        except BaseException:
            await machine.end(0)
            raise
        finally:
            await finish(opening)
        return BackendAnswer("errored", f"it was not ready within {limit_s:g} seconds (start_timeout_s)")

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        worker = self._workers.get(dispatch.worker_id)
        return await worker.machine.offer(dispatch) if worker else NOTHING_RUNS

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if worker := self._workers.get(worker_id):
            worker.machine.start(input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if worker := self._workers.get(worker_id):
            worker.machine.withdraw(input_id)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        worker = self._workers.get(worker_id)
        try:
            if worker is not None:
                await worker.machine.interrupt(self._profile.stop_grace_s)
        except TimeoutError as error:
            return BackendAnswer("errored", str(error))
        return BackendAnswer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return await self._end(worker_id, self._profile.stop_grace_s)

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return await self._end(worker_id, 0)

    async def delete(self, worker_id: WorkerId) -> None:
        """Do nothing: only the folder of a Worker remains, and its owner removes that."""

    async def close(self) -> None:
        worker_ids = tuple(self._workers)
        ending = (self._end(worker_id, self._profile.stop_grace_s) for worker_id in worker_ids)
        for worker_id, outcome in zip(worker_ids, await asyncio.gather(*ending, return_exceptions=True), strict=True):
            if isinstance(outcome, BaseException):
                log.error("cannot end a Worker", exc_info=outcome, extra={"worker_id": worker_id})

    async def _end(self, worker_id: WorkerId, grace_s: float) -> BackendAnswer:
        worker = self._workers.get(worker_id)
        if worker is None:
            return BackendAnswer("accepted")
        try:
            await worker.machine.end(grace_s)
        except TimeoutError as error:
            return BackendAnswer("errored", str(error))
        finally:
            await worker.sink.close()
            self._forget(worker_id, worker)
        return BackendAnswer("accepted")

    def _forget(self, worker_id: WorkerId, worker: _Worker) -> None:
        if self._workers.get(worker_id) is worker:
            del self._workers[worker_id]
