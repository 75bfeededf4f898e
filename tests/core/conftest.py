"""A Runtime with a backend of the tests' own: everything through the public API of the core."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace

import attrs
import pytest

from runtimed.core import BackendAnswer, Dispatch, EventSink, Runtime, Spawn
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.model.event import Payload, RunEnd
from runtimed.model.identity import WorkerId
from runtimed.store.memory import MemoryStore


@attrs.define(eq=False)
class Puppet:
    """An ExecutionBackend that does what a test tells it to, and remembers what it was told."""

    sinks: dict[WorkerId, EventSink] = attrs.field(factory=dict)
    told: list[str] = attrs.field(factory=list)
    histories: list[object] = attrs.field(factory=list)
    running: set[WorkerId] = attrs.field(factory=set)
    spawned: BackendAnswer = BackendAnswer("accepted")
    dispatched: BackendAnswer = BackendAnswer("accepted")
    interrupted: BackendAnswer = BackendAnswer("accepted")
    started: asyncio.Event = attrs.field(factory=asyncio.Event)
    gate: asyncio.Event = attrs.field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self.gate.set()

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        self.told.append("spawn")
        self.histories.append(spawn.history)
        await self.gate.wait()
        self.sinks[spawn.worker_id] = sink
        return self.spawned

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        self.told.append(f"dispatch {dispatch.input.content}")
        await self.gate.wait()
        return self.dispatched

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        self.told.append("start")
        self.running.add(worker_id)
        self.started.set()

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        self.told.append("withdraw")

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        self.told.append("interrupt")
        await self.gate.wait()
        if worker_id in self.running:
            self.running.remove(worker_id)
            await self.say(worker_id, RunEnd("rolled_back"))
        return self.interrupted

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        self.told.append("stop")
        await self.gate.wait()
        return BackendAnswer("accepted")

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        self.told.append("cancel")
        return BackendAnswer("accepted")

    async def delete(self, worker_id: WorkerId) -> None:
        self.told.append(f"delete {worker_id}")

    async def close(self) -> None:
        self.told.append("close")

    async def say(self, worker_id: WorkerId, *payloads: Payload) -> None:
        await self.sinks[worker_id].emit(*payloads)

    async def finish(self, worker_id: WorkerId) -> None:
        self.running.discard(worker_id)
        await self.say(worker_id, RunEnd("finished"))


@attrs.define(eq=False)
class Published:
    """A Listener that keeps everything, and can wait for it."""

    events: list[EncodedEvent] = attrs.field(factory=list)
    forgotten: list[WorkerId] = attrs.field(factory=list)
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        self.events += events
        self._changed.set()

    def forget(self, worker_id: WorkerId) -> None:
        self.forgotten.append(worker_id)

    async def until(self, done: Callable[[list[EncodedEvent]], bool]) -> list[EncodedEvent]:
        async with asyncio.timeout(10):
            while not done(self.events):
                self._changed.clear()
                await self._changed.wait()
        return self.events


class Faulty(MemoryStore):
    """A real store whose commits fail while a test wants them to; `tried` counts them."""

    fault: Exception | None = None
    tried = 0

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        if self.fault is None:
            return super().commit(change)
        self.tried += 1
        failed: asyncio.Future[Sequence[EncodedEvent]] = asyncio.get_running_loop().create_future()
        failed.set_exception(self.fault)
        return failed


class Slow(Faulty):
    """One that says what became of a commit when a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        return asyncio.ensure_future(self._told(super().commit(change)))

    async def _told(self, committed: asyncio.Future[Sequence[EncodedEvent]]) -> Sequence[EncodedEvent]:
        await self.may.wait()
        return await committed


async def turns() -> None:
    """Let the event loop do what it can do without the time going on."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The event loop's clock, which stands still but for what a test adds to `now`."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    return clock


@pytest.fixture
def faulty() -> Faulty:
    return Faulty()


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
async def puppet() -> Puppet:
    return Puppet()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def runtime(store: MemoryStore, puppet: Puppet) -> AsyncIterator[Runtime]:
    async with Runtime(store, puppet) as running:
        yield running


@pytest.fixture
async def published(runtime: Runtime) -> Published:
    subscriber = Published()
    runtime.subscribe(subscriber)
    return subscriber
