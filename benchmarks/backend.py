"""The execution backend of a measured daemon."""

import asyncio

from benchmarks.ticks import Series
from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.model.event import SystemItem
from runtimed.model.identity import WorkerId

ACCEPTED = BackendAnswer("accepted")


class LoadBackend:
    """An ExecutionBackend that accepts every input at once and runs nothing, except for orders of a Series.

    So the daemon is measured without any program. Its events are `system_item`s, which are never joined: each one
    is a frame.
    """

    def __init__(self) -> None:
        self._sinks: dict[WorkerId, EventSink] = {}
        self._orders: dict[str, Series] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep_warm(self, _idle_s: float) -> None:
        """Do nothing: there are no programs."""

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        self._sinks[spawn.worker_id] = sink
        return ACCEPTED

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        if series := Series.parse(dispatch.input.content):
            self._orders[dispatch.input_id] = series
        return ACCEPTED

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if series := self._orders.pop(input_id, None):
            task = asyncio.get_running_loop().create_task(_emit(self._sinks[worker_id], series))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        self._orders.pop(input_id, None)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        return ACCEPTED

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        self._sinks.pop(worker_id, None)
        return ACCEPTED

    cancel = stop

    async def delete(self, worker_id: WorkerId) -> None:
        """Do nothing: no data is kept."""

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _emit(sink: EventSink, series: Series) -> None:
    async for item in series.ticks():
        await sink.emit(SystemItem(item))
