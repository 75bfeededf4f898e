"""Inputs that find a run going on, and interrupts."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runtimed.core import BackendAnswer, EventSink, Runtime, Store
from runtimed.core.limits import Limits
from runtimed.core.services import queue_dispatcher
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import (
    InvalidRequest,
    StoreFull,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
)
from runtimed.execution import FunctionBackend
from runtimed.model.event import ErrorRaised, RunEnd
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.interaction import InputKind, InteractionAck, WhenBusy, WorkerInput
from runtimed.model.worker import WorkerDetail
from runtimed.store.memory import MemoryStore
from tests.core.conftest import FailingStore, FakeBackend, RecordingSubscriber, result_of

HELLO = WorkerInput("user", "hello")
WHEN_BUSY: tuple[WhenBusy, ...] = ("reject", "queue", "interrupt")


def patient(content: str, when_busy: WhenBusy = "queue", kind: InputKind = "user") -> WorkerInput:
    return WorkerInput(kind, content, when_busy)


def payloads(events: Sequence[EncodedEvent]) -> list[dict[str, Any]]:
    return [json.loads(event.payload) for event in events]


def event_names(events: Sequence[EncodedEvent]) -> list[str]:
    """The names of the events, those of items by their kind."""
    return [
        payload["data"]["item"]["kind"] if payload["event"] == "system_item" else payload["event"]
        for payload in payloads(events)
    ]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def dispatched(backend: FakeBackend) -> list[str]:
    return [word.removeprefix("dispatch ") for word in backend.calls if word.startswith("dispatch ")]


@pytest.fixture
async def busy(runtime: Runtime, backend: FakeBackend) -> WorkerDetail:
    """A Worker amid a run."""
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    return worker


async def test_a_queued_input_is_stored_at_once_and_dispatched_when_the_run_ends(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, busy: WorkerDetail
) -> None:
    ack = await runtime.send_input(busy.worker_ref, patient("second"))
    assert ack.queued
    assert event_names(published.events) == ["user_message", "user_message"]
    assert ack.cursor == cursor_of(published.events[-1].sequence)
    assert (ack.transcript_sequence, runtime.worker(busy.worker_ref).queued_inputs) == (2, 1)
    assert dispatched(backend) == ["hello"]
    await backend.finish(busy.worker_id)
    await until(lambda: dispatched(backend) == ["hello", "second"] and backend.calls[-1] == "start")
    worker = runtime.worker(busy.worker_ref)
    assert (worker.queued_inputs, worker.execution.run_state) == (0, "busy")
    assert event_names(published.events)[-2:] == ["run_end", "input_started"]
    item = payloads(published.events)[-1]["data"]["item"]
    assert (item["cursor"], item["transcript_sequence"]) == (ack.cursor, 2)
    await backend.finish(busy.worker_id)
    await until(lambda: runtime.worker(busy.worker_ref).execution.run_state == "idle")


async def test_a_worker_with_queued_inputs_is_never_shown_as_idle(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    await runtime.send_input(busy.worker_ref, patient("second"))
    seen: list[tuple[list[str], str]] = []

    class StateRecorder:
        def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
            seen.append((event_names(events), runtime.worker(busy.worker_ref).execution.run_state))

        def changed(self, worker_id: WorkerId) -> None: ...

        def forget(self, worker_id: WorkerId) -> None: ...

    runtime.subscribe(StateRecorder())
    await backend.finish(busy.worker_id)
    await until(lambda: len(seen) == 2)
    assert seen == [(["run_end"], "busy"), (["input_started"], "busy")]


async def test_queued_inputs_run_one_by_one_in_their_order(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    for number in range(5):
        await runtime.send_input(busy.worker_ref, patient(f"queued {number}", kind=("user", "system")[number % 2]))
    for number in range(5):
        await backend.finish(busy.worker_id)
        await until(lambda: busy.worker_id in backend.running)
        assert len(dispatched(backend)) == number + 2
    assert dispatched(backend) == ["hello", *(f"queued {number}" for number in range(5))]


@pytest.mark.parametrize("when_busy", ["queue", "interrupt"])
async def test_an_input_that_may_queue_runs_at_once_on_an_idle_worker(
    runtime: Runtime, backend: FakeBackend, when_busy: WhenBusy
) -> None:
    worker = await runtime.create_worker()
    ack = await runtime.send_input(worker.worker_ref, patient("hello", when_busy))
    assert not ack.queued
    assert backend.calls == ["spawn", "dispatch hello", "start"]


async def test_no_other_input_runs_before_the_queued_ones(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    await runtime.send_input(busy.worker_ref, patient("second"))
    with pytest.raises(WorkerExecutionRejected, match="inputs are queued"):
        await runtime.send_input(busy.worker_ref, HELLO)
    assert result_of(runtime.worker(busy.worker_ref)).outcome == "busy"
    assert dispatched(backend) == ["hello"]


async def test_inputs_beyond_the_limit_of_the_queue_are_refused(backend: FakeBackend) -> None:
    async with Runtime(MemoryStore(), backend, limits=Limits(max_queued_inputs=2)) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        for number in range(2):
            await runtime.send_input(worker.worker_ref, patient(f"queued {number}"))
        with pytest.raises(WorkerExecutionRejected, match="max_queued_inputs"):
            await runtime.send_input(worker.worker_ref, patient("one too many"))
        assert runtime.worker(worker.worker_ref).transcript_len == 3


async def test_an_interrupting_input_goes_first_and_cuts_the_run(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, busy: WorkerDetail
) -> None:
    await runtime.send_input(busy.worker_ref, patient("second"))
    ack = await runtime.send_input(busy.worker_ref, patient("now", "interrupt"))
    assert ack.queued
    await until(lambda: dispatched(backend) == ["hello", "now"] and busy.worker_id in backend.running)
    assert event_names(published.events)[-2:] == ["run_end", "input_started"]
    assert payloads(published.events)[-2]["data"] == {"result": "rolled_back"}
    await backend.finish(busy.worker_id)
    await until(lambda: dispatched(backend) == ["hello", "now", "second"])


async def test_two_interrupting_inputs_cut_one_run_and_the_newer_goes_first(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    backend.gate.clear()
    for content in ("older", "newer"):
        await runtime.send_input(busy.worker_ref, patient(content, "interrupt"))
    await until(lambda: "interrupt" in backend.calls)
    backend.gate.set()
    await until(lambda: dispatched(backend)[-1] == "newer" and busy.worker_id in backend.running)
    await backend.finish(busy.worker_id)
    await until(lambda: dispatched(backend) == ["hello", "newer", "older"])
    assert backend.calls.count("interrupt") == 1


async def test_an_interrupting_input_that_starts_at_once_cuts_no_run(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    backend.gate.clear()
    await runtime.send_input(busy.worker_ref, patient("second"))
    await backend.finish(busy.worker_id)
    await until(lambda: dispatched(backend)[-1] == "second")
    await runtime.send_input(busy.worker_ref, patient("now", "interrupt"))
    assert "interrupt" not in backend.calls
    backend.gate.set()
    await until(lambda: dispatched(backend)[-1] == "now")
    assert backend.calls.count("interrupt") == 1


async def test_a_queued_input_that_the_backend_refuses_ends_with_an_error_and_the_next_is_tried(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, busy: WorkerDetail
) -> None:
    for content in ("second", "third"):
        await runtime.send_input(busy.worker_ref, patient(content))
    backend.dispatched = BackendAnswer("rejected", "not that")
    await backend.finish(busy.worker_id)
    events = await published.until(lambda events: event_names(events).count("error") == 2)
    assert event_names(events)[2:] == [
        "user_message",
        "run_end",
        "input_started",
        "error",
        "run_end",
        "input_started",
        "error",
        "run_end",
    ]
    errors = [payload["data"] for payload in payloads(events) if payload["event"] == "error"]
    assert {(error["code"], error["message"]) for error in errors} == {
        ("invalid_request", "the input was refused: not that")
    }
    assert backend.calls.count("start") == 1
    worker = runtime.worker(busy.worker_ref)
    assert (worker.execution.run_state, result_of(worker).message) == ("idle", "not that")


@pytest.mark.parametrize("sent", ["before", "behind"])
async def test_an_input_queued_after_an_error_waits_until_the_run_has_ended(
    runtime: Runtime,
    backend: FakeBackend,
    published: RecordingSubscriber,
    busy: WorkerDetail,
    sent: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 60.0)
    backend.dispatched = BackendAnswer("busy")
    if sent == "before":
        await runtime.send_input(busy.worker_ref, patient("second"))
    await backend.say(busy.worker_id, ErrorRaised("provider_error", "no answer"))
    if sent == "behind":
        assert (await runtime.send_input(busy.worker_ref, patient("second"))).queued
    await until(lambda: dispatched(backend)[-1] == "second")
    worker = runtime.worker(busy.worker_ref)
    assert (worker.queued_inputs, worker.execution.run_state) == (1, "busy")
    backend.dispatched = BackendAnswer("accepted")
    await backend.say(busy.worker_id, RunEnd("finished"))
    await until(lambda: backend.calls.count("start") == 2)
    assert event_names(published.events)[-3:] == ["error", "run_end", "input_started"] or sent == "behind"
    assert event_names(published.events)[-2:] == ["run_end", "input_started"]


async def test_a_backend_that_is_busy_without_a_run_is_offered_the_input_again(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_dispatcher, "BUSY_RETRY_S", 0.001)
    worker = await runtime.create_worker()
    backend.dispatched = BackendAnswer("busy")
    assert (await runtime.send_input(worker.worker_ref, patient("hello"))).queued
    await until(lambda: len(dispatched(backend)) > 5)
    assert event_names(published.events) == ["user_message"]
    backend.dispatched = BackendAnswer("accepted")
    await until(lambda: backend.calls[-1] == "start")
    assert event_names(published.events) == ["user_message", "input_started"]


async def test_an_interrupt_ends_the_run_that_the_backend_began_by_itself(
    runtime: Runtime, backend: FakeBackend
) -> None:
    worker = await runtime.create_worker()
    backend.dispatched = BackendAnswer("busy")
    await runtime.send_input(worker.worker_ref, patient("hello", "interrupt"))
    await until(lambda: "interrupt" in backend.calls)
    backend.dispatched = BackendAnswer("accepted")
    await backend.finish(worker.worker_id)
    await until(lambda: backend.calls[-1] == "start")


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
async def test_the_end_of_a_worker_drops_queued_inputs_and_reports_reason_and_number(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, busy: WorkerDetail, way: str
) -> None:
    for number in range(3):
        await runtime.send_input(busy.worker_ref, patient(f"queued {number}"))
    ended = await getattr(runtime, way)(busy.worker_ref)
    alerts = [payload["data"]["message"] for payload in payloads(published.events) if payload["event"] == "alert"]
    assert f"the Worker was {ended.status}; queued inputs dropped: 3" in alerts
    assert runtime.worker(busy.worker_ref).queued_inputs == 0
    assert dispatched(backend) == ["hello"]


async def test_queued_inputs_survive_a_loss_and_run_once_the_worker_is_restored(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    await runtime.send_input(busy.worker_ref, patient("second"))
    await backend.sinks[busy.worker_id].lose("exit", "gone")
    assert runtime.worker(busy.worker_ref).queued_inputs == 1
    with pytest.raises(WorkerExecutionUnavailable, match="restore"):
        await runtime.send_input(busy.worker_ref, patient("third"))
    await runtime.restore_worker(busy.worker_ref)
    await until(lambda: dispatched(backend) == ["hello", "second"])


async def test_queued_inputs_survive_a_restart_and_run_after_it(store: MemoryStore, backend: FakeBackend) -> None:
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        for content in ("second", "third"):
            await runtime.send_input(worker.worker_ref, patient(content))
    async with Runtime(store, backend) as runtime:
        await until(lambda: dispatched(backend) == ["hello", "second"] and backend.calls[-1] == "start")
        assert runtime.worker(worker.worker_ref).queued_inputs == 1
        await backend.finish(worker.worker_id)
        await until(lambda: dispatched(backend) == ["hello", "second", "third"])


async def test_queued_inputs_stay_queued_if_nothing_is_restored(store: MemoryStore, backend: FakeBackend) -> None:
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
    async with Runtime(store, backend, restore="never") as runtime:
        assert runtime.worker(worker.worker_ref).queued_inputs == 1
        with pytest.raises(WorkerExecutionUnavailable, match="restore"):
            await runtime.send_input(worker.worker_ref, HELLO)
        assert dispatched(backend) == ["hello"]


async def test_an_input_that_was_offered_and_not_started_stays_queued_over_a_restart(
    store: MemoryStore, backend: FakeBackend
) -> None:
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        backend.gate.clear()
        await backend.finish(worker.worker_id)
        await until(lambda: dispatched(backend)[-1] == "second")
    backend.gate.set()
    async with Runtime(store, backend) as runtime:
        await until(lambda: backend.calls.count("start") == 2)
        assert event_names(await runtime.events(worker.worker_ref, 0))[-2:] == ["run_end", "input_started"]
    assert dispatched(backend) == ["hello", "second", "second"]
    async with Runtime(store, backend) as runtime:
        assert event_names(await runtime.events(worker.worker_ref, 0))[-3:] == ["input_started", "error", "run_end"]
        await runtime.restore_worker(worker.worker_ref)
    assert backend.calls.count("start") == 2


async def test_a_queued_input_starts_on_a_full_store_once_there_is_room(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        failing_store.fault = StoreFull("no room")
        await backend.finish(worker.worker_id)
        await until(lambda: failing_store.tried)
        assert dispatched(backend) == ["hello"]
        failing_store.fault = None
        await until(lambda: dispatched(backend) == ["hello", "second"])


async def test_inputs_of_many_clients_at_once_all_run_one_at_a_time(store: MemoryStore) -> None:
    heard: list[str] = []

    async def hear(message: WorkerInput, _sink: EventSink) -> None:
        heard.append(message.content)
        await asyncio.sleep(0)

    async with Runtime(store, FunctionBackend(hear)) as runtime:
        worker = await runtime.create_worker()
        sent = [f"input {number}" for number in range(30)]
        acks = await asyncio.gather(*(runtime.send_input(worker.worker_ref, patient(content)) for content in sent))
        await until(lambda: len(heard) == len(sent))
        await until(lambda: runtime.worker(worker.worker_ref).execution.run_state == "idle")
        page = await runtime.transcript(worker.worker_ref)
    assert sorted(heard) == sorted(sent)
    assert [item.content for item in page.items] == heard
    assert sorted(ack.transcript_sequence for ack in acks) == list(range(1, 31))
    assert "error" not in event_names(await events_of(store, worker))


async def events_of(store: Store, worker: WorkerDetail) -> Sequence[EncodedEvent]:
    async with Runtime(store) as runtime:
        return await runtime.events(worker.worker_ref, 0)


async def test_direct_and_queued_inputs_at_once_never_overlap_in_the_backend(store: MemoryStore) -> None:
    heard: list[str] = []

    async def hear(message: WorkerInput, _sink: EventSink) -> None:
        heard.append(message.content)
        await asyncio.sleep(0)

    async with Runtime(store, FunctionBackend(hear)) as runtime:
        worker = await runtime.create_worker()

        async def send(number: int) -> InteractionAck | None:
            when_busy = WHEN_BUSY[number % 3]
            try:
                return await runtime.send_input(worker.worker_ref, patient(f"{number}", when_busy))
            except WorkerExecutionRejected:
                return None

        acks = await asyncio.gather(*(send(number) for number in range(60)))
        await until(lambda: runtime.worker(worker.worker_ref).execution.run_state == "idle")
        page = await runtime.transcript(worker.worker_ref)
    assert len(page.items) == sum(ack is not None for ack in acks)
    assert all(ack is not None for number, ack in enumerate(acks) if number % 3)
    assert "error" not in event_names(await events_of(store, worker))
    assert len(heard) == len(set(heard))


async def test_an_interrupt_ends_the_run_and_the_ack_names_its_end(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, busy: WorkerDetail
) -> None:
    ack = await runtime.interrupt_worker(busy.worker_ref)
    assert payloads(published.events)[-1] == {"event": "run_end", "data": {"result": "rolled_back"}}
    assert (ack.status, ack.cursor) == ("running", cursor_of(published.events[-1].sequence))
    assert runtime.worker(busy.worker_ref).execution.run_state == "idle"


async def test_an_interrupt_without_a_run_changes_nothing(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    for _ in range(2):
        ack = await runtime.interrupt_worker(worker.worker_ref)
        assert (ack.status, ack.cursor) == ("running", cursor_of(0))
    await runtime.stop_worker(worker.worker_ref)
    assert (await runtime.interrupt_worker(worker.worker_ref)).status == "stopped"
    assert event_names(published.events) == ["shutdown"]


async def test_an_interrupt_that_the_backend_cannot_do_is_refused(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    backend.interrupted = BackendAnswer("unsupported", "this agent takes no interrupts")
    with pytest.raises(WorkerExecutionRejected, match="takes no interrupts"):
        await runtime.interrupt_worker(busy.worker_ref)


async def test_an_interrupt_during_a_stop_waits_for_it(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    backend.gate.clear()
    stopping = asyncio.create_task(runtime.stop_worker(busy.worker_ref))
    await until(lambda: "stop" in backend.calls)
    interrupting = asyncio.create_task(runtime.interrupt_worker(busy.worker_ref))
    await asyncio.sleep(0)
    backend.gate.set()
    await stopping
    assert (await interrupting).status == "stopped"
    assert "interrupt" not in backend.calls


async def test_a_stopped_worker_queues_no_input(runtime: Runtime, busy: WorkerDetail) -> None:
    await runtime.stop_worker(busy.worker_ref)
    with pytest.raises(InvalidRequest):
        await runtime.send_input(busy.worker_ref, patient("late"))


async def test_a_run_that_ends_during_the_stop_of_its_worker_starts_no_queued_input(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, busy: WorkerDetail
) -> None:
    for content in ("second", "third"):
        await runtime.send_input(busy.worker_ref, patient(content))
    backend.gate.clear()
    stopping = asyncio.create_task(runtime.stop_worker(busy.worker_ref))
    await until(lambda: "stop" in backend.calls)
    await backend.finish(busy.worker_id)
    await published.until(lambda events: "run_end" in event_names(events))
    backend.gate.set()
    await stopping
    assert event_names(published.events)[-3:] == ["run_end", "alert", "shutdown"]
    message = payloads(published.events)[-2]["data"]["message"]
    assert message == "the Worker was stopped; queued inputs dropped: 2"
    assert dispatched(backend) == ["hello"]


async def test_a_run_that_ends_during_the_close_leaves_queued_inputs_to_the_next_start(
    store: MemoryStore, backend: FakeBackend
) -> None:
    async with Runtime(store, backend) as runtime:
        worker, other = [await runtime.create_worker() for _ in range(2)]
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        backend.gate.clear()
        stopping = asyncio.create_task(runtime.stop_worker(other.worker_ref))
        await until(lambda: "stop" in backend.calls)
        closing = asyncio.create_task(runtime.close())
        await asyncio.sleep(0)
        before = runtime.head
        await backend.finish(worker.worker_id)
        await until(lambda: runtime.head > before)
        backend.gate.set()
        await asyncio.gather(stopping, closing)
        assert dispatched(backend) == ["hello"]
    async with Runtime(store, backend):
        await until(lambda: dispatched(backend) == ["hello", "second"])


async def test_an_input_in_flight_when_its_worker_is_lost_runs_once_the_worker_is_restored(
    store: MemoryStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        reading, may = asyncio.Event(), asyncio.Event()
        read = store.read_entries

        async def read_slowly(*arguments: Any) -> Any:
            reading.set()
            await may.wait()
            return await read(*arguments)

        monkeypatch.setattr(store, "read_entries", read_slowly)
        await backend.finish(worker.worker_id)
        await asyncio.wait_for(reading.wait(), 10)
        await backend.sinks[worker.worker_id].lose("exit", "gone")
        await runtime.restore_worker(worker.worker_ref)
        may.set()
        await until(lambda: backend.calls[-2:] == ["dispatch second", "start"])
        assert backend.calls.count("start") == 2
        assert backend.calls.count("withdraw") == 1
