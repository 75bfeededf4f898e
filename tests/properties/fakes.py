"""Fakes for a Runtime under test: stores that can crash, stall and be full, a backend, a clock."""

import asyncio
import copy
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from runtimed.core import BackendAnswer, Dispatch, EventSink, Spawn, Store
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.errors import StoreFull
from runtimed.model.event import RunEnd
from runtimed.model.identity import WorkerId
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore

Committed = asyncio.Future[Sequence[EncodedEvent]]

TIMES_BUSY = 2
"""How often a FakeBackend answers busy to an input that a test wants it to be busy for."""


class CrashableMemory:
    """A store in memory that can crash: a copy of it is what a crash leaves."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def store(self) -> Store:
        return self._store

    def crash(self) -> None:
        """Let `store` return a copy of the present state. Later changes to the present store have no effect on it."""
        loop = asyncio.get_running_loop()
        self._store = copy.deepcopy(self._store, {id(loop): loop})

    def remove(self) -> None: ...


class CrashableFolder:
    """A store in a folder that can crash: a copy of its files is what a crash leaves, the log copied last."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "0")
        self._crashes = 0

    def store(self) -> Store:
        return SqliteStore(self._path)

    def crash(self) -> None:
        """Go on with a copy of the files. The log only grows, so the copy holds every commit that was reported."""
        self._crashes += 1
        path = Path(self._folder.name, str(self._crashes))
        path.mkdir(mode=0o700)
        for file in sorted(self._path.iterdir()):
            if file.is_file() and not file.name.endswith("-shm"):
                shutil.copy2(file, path)
        self._path = path

    def remove(self) -> None:
        self._folder.cleanup()


class StoreValve:
    """A Store in front of another: Changes wait while it is shut, and fail while it is full.

    `stored` is called with events as soon as the store has made them durable, before the caller gets the answer.
    """

    def __init__(self, store: Store, stored: Callable[[Sequence[EncodedEvent]], None]) -> None:
        self.shut = False
        self.full = False
        self._store = store
        self._stored = stored
        self._waiting: list[tuple[Change, Committed]] = []
        self._newest: Committed | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, change: Change) -> Committed:
        future: Committed = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if not self.shut:
            self.release()
        return future

    def release(self, count: int | None = None) -> None:
        """Pass on the oldest Changes, or all."""
        passed, self._waiting = self._waiting[:count], [] if count is None else self._waiting[count:]
        for change, future in passed:
            self._finish(self._newest, self._refused() if self.full else self._store.commit(change), future)
            self._newest = future

    def _refused(self) -> Committed:
        refused: Committed = asyncio.get_running_loop().create_future()
        refused.set_exception(StoreFull("there is no room"))
        return refused

    def _finish(self, before: Committed | None, outcome: Committed, future: Committed) -> None:
        """Finish the future with its outcome once the future before it is finished."""
        for awaited in (before, outcome):
            if awaited is not None and not awaited.done():
                awaited.add_done_callback(lambda _: self._finish(before, outcome, future))
                return
        if error := outcome.exception():
            future.set_exception(error)
        else:
            self._stored(outcome.result())
            future.set_result(outcome.result())

    async def purge(self, worker_id: WorkerId) -> bool:
        if self.full:
            raise StoreFull("there is no room")
        return await self._store.purge(worker_id)

    async def close(self) -> None:
        self.release()
        await self._store.close()


@attrs.define(eq=False)
class FakeBackend:
    """An ExecutionBackend that gives the answers a test sets, once `may` is set.

    It records every input by its id. It answers busy to an input TIMES_BUSY times: before it is queued, and when it
    is offered again. It accepts inputs without a set answer, such as those queued before a restart.
    """

    spawned: BackendAnswer = BackendAnswer("accepted")
    answers: dict[str, BackendAnswer] = attrs.field(factory=dict)
    sinks: dict[WorkerId, EventSink] = attrs.field(factory=dict)
    accepted: dict[str, str] = attrs.field(factory=dict)
    refused: Counter[str] = attrs.field(factory=Counter)
    started: list[str] = attrs.field(factory=list)
    withdrawn: list[str] = attrs.field(factory=list)
    may: asyncio.Event = attrs.field(factory=asyncio.Event)
    on_start: Callable[[WorkerId, str], None] = lambda _worker, _content: None
    on_interrupt: Callable[[WorkerId], None] = lambda _worker: None

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        answer = self.spawned
        await self.may.wait()
        if answer.outcome == "accepted":
            self.sinks[spawn.worker_id] = sink
        return answer

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        await self.may.wait()
        content = dispatch.input.content
        answer = self.answers.get(content, BackendAnswer("accepted"))
        if answer.outcome == "busy" and self.refused[content] == TIMES_BUSY:
            answer = BackendAnswer("accepted")
        if answer.outcome == "accepted":
            self.accepted[dispatch.input_id] = content
        else:
            self.refused[content] += 1
        return answer

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        self.started.append(input_id)
        self.on_start(worker_id, self.accepted[input_id])

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        self.withdrawn.append(input_id)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        if sink := self.sinks.get(worker_id):
            self.on_interrupt(worker_id)
            await sink.emit(RunEnd("rolled_back"))
        return BackendAnswer("accepted")

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        await self.may.wait()
        return BackendAnswer("accepted")

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return BackendAnswer("accepted")

    async def delete(self, worker_id: WorkerId) -> None: ...

    async def close(self) -> None: ...


@attrs.define
class FakeClock:
    """A Clock that advances only when a test says so."""

    now_ms: int = 1_000_000_000

    def unix_ms(self) -> int:
        return self.now_ms
