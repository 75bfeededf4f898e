"""Fixtures of the core's tests: a Runtime on a fake backend and stores that fail or wait on request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace

import attrs
import pytest

from runtimed.core import BackendAnswer, Dispatch, EventSink, Runtime, Spawn, Store
from runtimed.core.state.change import Change, EncodedEvent, Entry
from runtimed.model.bundle import Declaration
from runtimed.model.event import Payload, RunEnd, Snapshot
from runtimed.model.execution import ExecutionResult
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.worker import WorkerDetail
from runtimed.store.memory import MemoryStore

MakeStore = Callable[[], Store]


@attrs.define(eq=False)
class FakeBackend:
    """An ExecutionBackend that does what a test tells it to, and records the calls that it gets."""

    sinks: dict[WorkerId, EventSink] = attrs.field(factory=dict)
    calls: list[str] = attrs.field(factory=list)
    histories: list[Sequence[Entry] | None] = attrs.field(factory=list)
    declarations: list[Sequence[Declaration]] = attrs.field(factory=list)
    running: set[WorkerId] = attrs.field(factory=set)
    spawned: BackendAnswer = BackendAnswer("accepted")
    dispatched: BackendAnswer = BackendAnswer("accepted")
    interrupted: BackendAnswer = BackendAnswer("accepted")
    started: asyncio.Event = attrs.field(factory=asyncio.Event)
    gate: asyncio.Event = attrs.field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self.gate.set()

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        self.calls.append("spawn")
        self.histories.append(spawn.history)
        self.declarations.append(spawn.declarations)
        await self.gate.wait()
        self.sinks[spawn.worker_id] = sink
        return self.spawned

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        self.calls.append(f"dispatch {dispatch.input.content}")
        await self.gate.wait()
        return self.dispatched

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        self.calls.append("start")
        self.running.add(worker_id)
        self.started.set()

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        self.calls.append("withdraw")

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        self.calls.append("interrupt")
        await self.gate.wait()
        if worker_id in self.running:
            self.running.remove(worker_id)
            await self.say(worker_id, RunEnd("rolled_back"))
        return self.interrupted

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        self.calls.append("stop")
        await self.gate.wait()
        return BackendAnswer("accepted")

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        self.calls.append("cancel")
        return BackendAnswer("accepted")

    async def delete(self, worker_id: WorkerId) -> None:
        self.calls.append(f"delete {worker_id}")

    async def close(self) -> None:
        self.calls.append("close")

    async def say(self, worker_id: WorkerId, *payloads: Payload) -> None:
        await self.sinks[worker_id].emit(*payloads)

    async def finish(self, worker_id: WorkerId) -> None:
        self.running.discard(worker_id)
        await self.say(worker_id, RunEnd("finished"))


@attrs.define(eq=False)
class RecordingSubscriber:
    """An EventSubscriber that keeps everything, and can wait for it."""

    events: list[EncodedEvent] = attrs.field(factory=list)
    forgotten: list[WorkerId] = attrs.field(factory=list)
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        self.events += events
        self._changed.set()

    def changed(self, worker_id: WorkerId) -> None: ...

    def forget(self, worker_id: WorkerId) -> None:
        self.forgotten.append(worker_id)

    async def until(self, done: Callable[[list[EncodedEvent]], bool]) -> list[EncodedEvent]:
        async with asyncio.timeout(10):
            while not done(self.events):
                self._changed.clear()
                await self._changed.wait()
        return self.events


class FailingStore(MemoryStore):
    """A real store whose commits fail while `fault` is set. `tried` counts the failed ones."""

    fault: Exception | None = None
    tried = 0

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        if self.fault is None:
            return super().commit(change)
        self.tried += 1
        failed: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        failed.set_exception(self.fault)
        return failed


class SlowStore(FailingStore):
    """A store whose commits return only once a test sets `may`."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        return asyncio.ensure_future(self._after_release(super().commit(change)))

    async def _after_release(self, committed: asyncio.Future[Sequence[EncodedEvent]]) -> Sequence[EncodedEvent]:
        await self.may.wait()
        return await committed


def result_of(worker: WorkerDetail) -> ExecutionResult:
    """Return the last result of a Worker's backend, which must be there."""
    assert worker.execution.last_result is not None
    return worker.execution.last_result


async def snapshot_of(runtime: Runtime, ref: WorkerRef, sequence: int | None = None) -> Snapshot:
    """Return the payload of a snapshot."""
    payload = (await runtime.snapshot(ref, sequence)).payload
    assert isinstance(payload, Snapshot)
    return payload


async def run_ready_callbacks() -> None:
    """Run every callback that is ready, without letting time pass."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The event loop's clock. It advances only by what a test adds to `now`."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    return clock


@pytest.fixture
def failing_store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def slow_store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def runtime(store: MemoryStore, backend: FakeBackend) -> AsyncIterator[Runtime]:
    async with Runtime(store, backend) as running:
        yield running


@pytest.fixture
async def published(runtime: Runtime) -> RecordingSubscriber:
    subscriber = RecordingSubscriber()
    runtime.subscribe(subscriber)
    return subscriber
