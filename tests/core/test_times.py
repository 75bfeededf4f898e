"""Times: of events, entries, alerts, Workers and snapshots, all of one clock and stored once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from runtimed.core import Runtime, Store
from runtimed.model.event import Alert, RunEnd, TextDelta, TextDone
from runtimed.model.identity import WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore

from .conftest import FakeBackend, RecordingSubscriber

HELLO = WorkerInput("user", "hello")


@attrs.define
class SetClock:
    """A clock that tells what a test sets it to."""

    now_ms: int

    def unix_ms(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> SetClock:
    return SetClock(1_000)


@pytest.fixture(params=["memory", "fs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store")


@pytest.fixture
async def runtime(store: Store, backend: FakeBackend, clock: SetClock) -> AsyncIterator[Runtime]:
    async with Runtime(store, backend, clock=clock) as running:
        yield running


async def event_times(runtime: Runtime, ref: WorkerRef) -> list[tuple[str, int]]:
    """The name and the time of each event of a Worker."""
    events = await runtime.events(ref, 0)
    return [(json.loads(event.payload)["event"], event.timestamp_ms) for event in events]


async def test_each_event_and_its_entry_have_the_time_of_the_decision(
    runtime: Runtime, backend: FakeBackend, clock: SetClock, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    clock.now_ms = 2_000
    await runtime.send_input(worker.worker_ref, HELLO)
    clock.now_ms = 3_000
    await backend.say(worker.worker_id, TextDone("hi"), RunEnd("finished"))
    await published.until(lambda events: len(events) == 3)

    assert worker.created_at_ms == 1_000
    assert runtime.worker(worker.worker_ref).created_at_ms == 1_000
    assert await event_times(runtime, worker.worker_ref) == [
        ("user_message", 2_000),
        ("text_done", 3_000),
        ("run_end", 3_000),
    ]
    assert [event.timestamp_ms for event in published.events] == [2_000, 3_000, 3_000]
    transcript = await runtime.transcript(worker.worker_ref)
    assert [item.timestamp_ms for item in transcript.items] == [2_000, 3_000]


async def test_an_alert_has_the_time_of_its_event_whatever_the_backend_set(
    runtime: Runtime, backend: FakeBackend, clock: SetClock, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    clock.now_ms = 5_000
    await backend.say(worker.worker_id, Alert("warn", "worker", "from the backend", timestamp_ms=7))
    await runtime.send_input(worker.worker_ref, HELLO)
    await runtime.stop_worker(worker.worker_ref)

    alerts = [json.loads(event.payload)["data"] for event in published.events if b'"alert"' in event.payload]

    assert [alert["timestamp_ms"] for alert in alerts] == [5_000, 5_000]


async def test_a_snapshot_has_the_time_of_the_event_at_its_cursor(
    runtime: Runtime, backend: FakeBackend, clock: SetClock, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    other = await runtime.create_worker()
    clock.now_ms = 2_000
    await backend.say(worker.worker_id, TextDelta("a"))
    await published.until(lambda events: len(events) == 1)
    clock.now_ms = 3_000
    await backend.say(other.worker_id, TextDelta("b"))
    await published.until(lambda events: len(events) == 2)
    clock.now_ms = 4_000
    await backend.say(worker.worker_id, TextDone("ac"))
    await published.until(lambda events: len(events) == 3)
    ref = worker.worker_ref

    times = [(await runtime.snapshot(ref, sequence)).timestamp_ms for sequence in (0, 1, 2, 3, None)]

    assert times == [1_000, 2_000, 2_000, 4_000, 4_000]


async def test_times_are_the_same_after_a_restart_with_another_clock(
    backend: FakeBackend, clock: SetClock, tmp_path: Path
) -> None:
    async with Runtime(SqliteStore(tmp_path / "store"), backend, clock=clock) as first:
        published = RecordingSubscriber()
        first.subscribe(published)
        worker = await first.create_worker()
        ref = worker.worker_ref
        clock.now_ms = 2_000
        await first.send_input(ref, HELLO)
        await backend.say(worker.worker_id, Alert("warn", "worker", "careful", 0), TextDone("hi"), RunEnd("finished"))
        await published.until(lambda events: len(events) == 4)
        before = (list(await first.events(ref, 0)), (await first.transcript(ref)).items)

    async with Runtime(SqliteStore(tmp_path / "store"), FakeBackend(), clock=SetClock(9_000)) as second:
        assert (list(await second.events(ref, 0)), (await second.transcript(ref)).items) == before
        assert second.worker(ref).created_at_ms == 1_000
        assert (await second.snapshot(ref)).timestamp_ms == 2_000
