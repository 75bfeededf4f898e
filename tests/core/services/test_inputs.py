"""Inputs that find a run going on, and interrupts."""

import asyncio
import json

import pytest

from runtimed.core import BackendAnswer, Runtime
from runtimed.core.limits import Limits
from runtimed.core.services import queue_dispatcher
from runtimed.errors import (
    InvalidRequest,
    StoreFull,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
)
from runtimed.execution import FunctionBackend
from runtimed.model.event import ErrorRaised, RunEnd
from runtimed.model.identity import cursor_of
from runtimed.model.interaction import WorkerInput
from runtimed.store.memory import MemoryStore

HELLO = WorkerInput("user", "hello")


def patient(content, when_busy="queue", kind="user"):
    return WorkerInput(kind, content, when_busy)


def payloads(events):
    return [json.loads(event.payload) for event in events]


def told(events):
    """The names of the events, those of items by their kind."""
    return [
        payload["data"]["item"]["kind"] if payload["event"] == "system_item" else payload["event"]
        for payload in payloads(events)
    ]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def dispatched(puppet):
    return [word.removeprefix("dispatch ") for word in puppet.told if word.startswith("dispatch ")]


@pytest.fixture
async def busy(runtime, puppet):
    """A Worker amid a run."""
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    return worker


async def test_a_queued_input_is_stored_at_once_and_given_when_the_run_ends(runtime, puppet, published, busy):
    ack = await runtime.send_input(busy.worker_ref, patient("second"))
    assert ack.queued
    assert told(published.events) == ["user_message", "user_message"]
    assert ack.cursor == cursor_of(published.events[-1].sequence)
    assert (ack.transcript_sequence, runtime.worker(busy.worker_ref).queued_inputs) == (2, 1)
    assert dispatched(puppet) == ["hello"]
    await puppet.finish(busy.worker_id)
    await until(lambda: dispatched(puppet) == ["hello", "second"] and puppet.told[-1] == "start")
    worker = runtime.worker(busy.worker_ref)
    assert (worker.queued_inputs, worker.execution.run_state) == (0, "busy")
    assert told(published.events)[-2:] == ["run_end", "input_started"]
    item = payloads(published.events)[-1]["data"]["item"]
    assert (item["cursor"], item["transcript_sequence"]) == (ack.cursor, 2)
    await puppet.finish(busy.worker_id)
    await until(lambda: runtime.worker(busy.worker_ref).execution.run_state == "idle")


async def test_a_worker_with_inputs_that_wait_is_never_seen_idle(runtime, puppet, busy):
    await runtime.send_input(busy.worker_ref, patient("second"))
    seen = []

    class EventSubscriber:
        def publish(self, worker_id, events):
            seen.append((told(events), runtime.worker(busy.worker_ref).execution.run_state))

        def forget(self, worker_id): ...

    runtime.subscribe(EventSubscriber())
    await puppet.finish(busy.worker_id)
    await until(lambda: len(seen) == 2)
    assert seen == [(["run_end"], "busy"), (["input_started"], "busy")]


async def test_queued_inputs_run_one_by_one_in_their_order(runtime, puppet, busy):
    for number in range(5):
        await runtime.send_input(busy.worker_ref, patient(f"queued {number}", kind=("user", "system")[number % 2]))
    for number in range(5):
        await puppet.finish(busy.worker_id)
        await until(lambda: busy.worker_id in puppet.running)
        assert len(dispatched(puppet)) == number + 2
    assert dispatched(puppet) == ["hello", *(f"queued {number}" for number in range(5))]


@pytest.mark.parametrize("when_busy", ["queue", "interrupt"])
async def test_where_nothing_goes_on_a_patient_input_runs_at_once(runtime, puppet, when_busy):
    worker = await runtime.create_worker()
    ack = await runtime.send_input(worker.worker_ref, patient("hello", when_busy))
    assert not ack.queued
    assert puppet.told == ["spawn", "dispatch hello", "start"]


async def test_while_inputs_wait_no_other_gets_between(runtime, puppet, busy):
    await runtime.send_input(busy.worker_ref, patient("second"))
    with pytest.raises(WorkerExecutionRejected, match="wait their turn"):
        await runtime.send_input(busy.worker_ref, HELLO)
    assert runtime.worker(busy.worker_ref).execution.last_result.outcome == "busy"
    assert dispatched(puppet) == ["hello"]


async def test_more_inputs_than_may_wait_are_refused(puppet):
    async with Runtime(MemoryStore(), puppet, limits=Limits(max_queued_inputs=2)) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        for number in range(2):
            await runtime.send_input(worker.worker_ref, patient(f"queued {number}"))
        with pytest.raises(WorkerExecutionRejected, match="max_queued_inputs"):
            await runtime.send_input(worker.worker_ref, patient("one too many"))
        assert runtime.worker(worker.worker_ref).transcript_len == 3


async def test_an_interrupting_input_goes_first_and_cuts_the_run(runtime, puppet, published, busy):
    await runtime.send_input(busy.worker_ref, patient("second"))
    ack = await runtime.send_input(busy.worker_ref, patient("now", "interrupt"))
    assert ack.queued
    await until(lambda: dispatched(puppet) == ["hello", "now"] and busy.worker_id in puppet.running)
    assert told(published.events)[-2:] == ["run_end", "input_started"]
    assert payloads(published.events)[-2]["data"] == {"result": "rolled_back"}
    await puppet.finish(busy.worker_id)
    await until(lambda: dispatched(puppet) == ["hello", "now", "second"])


async def test_two_interrupting_inputs_cut_one_run_and_the_newer_goes_first(runtime, puppet, busy):
    puppet.gate.clear()
    for content in ("older", "newer"):
        await runtime.send_input(busy.worker_ref, patient(content, "interrupt"))
    await until(lambda: "interrupt" in puppet.told)
    puppet.gate.set()
    await until(lambda: dispatched(puppet)[-1] == "newer" and busy.worker_id in puppet.running)
    await puppet.finish(busy.worker_id)
    await until(lambda: dispatched(puppet) == ["hello", "newer", "older"])
    assert puppet.told.count("interrupt") == 1


async def test_an_interrupting_input_whose_turn_has_come_cuts_no_run(runtime, puppet, busy):
    puppet.gate.clear()
    await runtime.send_input(busy.worker_ref, patient("second"))
    await puppet.finish(busy.worker_id)
    await until(lambda: dispatched(puppet)[-1] == "second")
    await runtime.send_input(busy.worker_ref, patient("now", "interrupt"))
    assert "interrupt" not in puppet.told
    puppet.gate.set()
    await until(lambda: dispatched(puppet)[-1] == "now")
    assert puppet.told.count("interrupt") == 1


async def test_a_queued_input_that_the_backend_refuses_ends_with_an_error_and_the_next_is_tried(
    runtime, puppet, published, busy
):
    for content in ("second", "third"):
        await runtime.send_input(busy.worker_ref, patient(content))
    puppet.dispatched = BackendAnswer("rejected", "not that")
    await puppet.finish(busy.worker_id)
    events = await published.until(lambda events: told(events).count("error") == 2)
    assert told(events)[2:] == [
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
    assert puppet.told.count("start") == 1
    worker = runtime.worker(busy.worker_ref)
    assert (worker.execution.run_state, worker.execution.last_result.message) == ("idle", "not that")


@pytest.mark.parametrize("sent", ["before", "behind"])
async def test_an_input_behind_an_error_waits_on_where_the_run_has_not_ended(
    runtime, puppet, published, busy, sent, monkeypatch
):
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 60.0)
    puppet.dispatched = BackendAnswer("busy")
    if sent == "before":
        await runtime.send_input(busy.worker_ref, patient("second"))
    await puppet.say(busy.worker_id, ErrorRaised("provider_error", "no answer"))
    if sent == "behind":
        assert (await runtime.send_input(busy.worker_ref, patient("second"))).queued
    await until(lambda: dispatched(puppet)[-1] == "second")
    worker = runtime.worker(busy.worker_ref)
    assert (worker.queued_inputs, worker.execution.run_state) == (1, "busy")
    puppet.dispatched = BackendAnswer("accepted")
    await puppet.say(busy.worker_id, RunEnd("finished"))
    await until(lambda: puppet.told.count("start") == 2)
    assert told(published.events)[-3:] == ["error", "run_end", "input_started"] or sent == "behind"
    assert told(published.events)[-2:] == ["run_end", "input_started"]


async def test_a_backend_that_is_busy_without_a_word_is_asked_again(runtime, puppet, published, monkeypatch):
    monkeypatch.setattr(queue_dispatcher, "BUSY_RETRY_S", 0.001)
    worker = await runtime.create_worker()
    puppet.dispatched = BackendAnswer("busy")
    assert (await runtime.send_input(worker.worker_ref, patient("hello"))).queued
    await until(lambda: len(dispatched(puppet)) > 5)
    assert told(published.events) == ["user_message"]
    puppet.dispatched = BackendAnswer("accepted")
    await until(lambda: puppet.told[-1] == "start")
    assert told(published.events) == ["user_message", "input_started"]


async def test_an_interrupt_ends_the_run_that_the_backend_began_by_itself(runtime, puppet):
    worker = await runtime.create_worker()
    puppet.dispatched = BackendAnswer("busy")
    await runtime.send_input(worker.worker_ref, patient("hello", "interrupt"))
    await until(lambda: "interrupt" in puppet.told)
    puppet.dispatched = BackendAnswer("accepted")
    await puppet.finish(worker.worker_id)
    await until(lambda: puppet.told[-1] == "start")


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
async def test_the_end_of_a_worker_drops_what_waits_and_says_why_and_how_much(runtime, puppet, published, busy, way):
    for number in range(3):
        await runtime.send_input(busy.worker_ref, patient(f"queued {number}"))
    ended = await getattr(runtime, way)(busy.worker_ref)
    alerts = [payload["data"]["message"] for payload in payloads(published.events) if payload["event"] == "alert"]
    assert f"the Worker was {ended.status}; inputs that waited and are not run: 3" in alerts
    assert runtime.worker(busy.worker_ref).queued_inputs == 0
    assert dispatched(puppet) == ["hello"]


async def test_what_waits_stays_through_a_loss_and_runs_once_the_worker_is_back(runtime, puppet, busy):
    await runtime.send_input(busy.worker_ref, patient("second"))
    await puppet.sinks[busy.worker_id].lose("exit", "gone")
    assert runtime.worker(busy.worker_ref).queued_inputs == 1
    with pytest.raises(WorkerExecutionUnavailable, match="restore"):
        await runtime.send_input(busy.worker_ref, patient("third"))
    await runtime.restore_worker(busy.worker_ref)
    await until(lambda: dispatched(puppet) == ["hello", "second"])


async def test_what_waits_outlives_a_restart_and_runs_in_the_next_life(store, puppet):
    async with Runtime(store, puppet) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        for content in ("second", "third"):
            await runtime.send_input(worker.worker_ref, patient(content))
    async with Runtime(store, puppet) as runtime:
        await until(lambda: dispatched(puppet) == ["hello", "second"] and puppet.told[-1] == "start")
        assert runtime.worker(worker.worker_ref).queued_inputs == 1
        await puppet.finish(worker.worker_id)
        await until(lambda: dispatched(puppet) == ["hello", "second", "third"])


async def test_what_waits_stays_where_nothing_is_to_be_restored(store, puppet):
    async with Runtime(store, puppet) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
    async with Runtime(store, puppet, restore="never") as runtime:
        assert runtime.worker(worker.worker_ref).queued_inputs == 1
        with pytest.raises(WorkerExecutionUnavailable, match="restore"):
            await runtime.send_input(worker.worker_ref, HELLO)
        assert dispatched(puppet) == ["hello"]


async def test_an_input_that_was_offered_and_not_begun_waits_for_the_next_life(store, puppet):
    async with Runtime(store, puppet) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        puppet.gate.clear()
        await puppet.finish(worker.worker_id)
        await until(lambda: dispatched(puppet)[-1] == "second")
    puppet.gate.set()
    async with Runtime(store, puppet) as runtime:
        await until(lambda: puppet.told.count("start") == 2)
        assert told(await runtime.events(worker.worker_ref, 0))[-2:] == ["run_end", "input_started"]
    assert dispatched(puppet) == ["hello", "second", "second"]
    async with Runtime(store, puppet) as runtime:
        assert told(await runtime.events(worker.worker_ref, 0))[-3:] == ["input_started", "error", "run_end"]
        await runtime.restore_worker(worker.worker_ref)
    assert puppet.told.count("start") == 2


async def test_a_turn_in_a_full_store_comes_once_there_is_room(faulty, puppet):
    async with Runtime(faulty, puppet) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        faulty.fault = StoreFull("no room")
        await puppet.finish(worker.worker_id)
        await until(lambda: faulty.tried)
        assert dispatched(puppet) == ["hello"]
        faulty.fault = None
        await until(lambda: dispatched(puppet) == ["hello", "second"])


async def test_inputs_of_many_clients_at_once_all_run_one_at_a_time(store):
    heard = []

    async def hear(message, _sink):
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
    assert "error" not in told(await events_of(store, worker))


async def events_of(store, worker):
    async with Runtime(store) as runtime:
        return await runtime.events(worker.worker_ref, 0)


async def test_impatient_and_patient_inputs_at_once_never_meet_in_the_backend(store):
    heard = []

    async def hear(message, _sink):
        heard.append(message.content)
        await asyncio.sleep(0)

    async with Runtime(store, FunctionBackend(hear)) as runtime:
        worker = await runtime.create_worker()

        async def send(number):
            when_busy = ("reject", "queue", "interrupt")[number % 3]
            try:
                return await runtime.send_input(worker.worker_ref, patient(f"{number}", when_busy))
            except WorkerExecutionRejected:
                return None

        acks = await asyncio.gather(*(send(number) for number in range(60)))
        await until(lambda: runtime.worker(worker.worker_ref).execution.run_state == "idle")
        page = await runtime.transcript(worker.worker_ref)
    assert len(page.items) == sum(ack is not None for ack in acks)
    assert all(ack is not None for number, ack in enumerate(acks) if number % 3)
    assert "error" not in told(await events_of(store, worker))
    assert len(heard) == len(set(heard))


async def test_an_interrupt_ends_the_run_and_the_ack_names_its_end(runtime, puppet, published, busy):
    ack = await runtime.interrupt_worker(busy.worker_ref)
    assert payloads(published.events)[-1] == {"event": "run_end", "data": {"result": "rolled_back"}}
    assert (ack.status, ack.cursor) == ("running", cursor_of(published.events[-1].sequence))
    assert runtime.worker(busy.worker_ref).execution.run_state == "idle"


async def test_an_interrupt_where_nothing_runs_changes_nothing(runtime, puppet, published):
    worker = await runtime.create_worker()
    for _ in range(2):
        ack = await runtime.interrupt_worker(worker.worker_ref)
        assert (ack.status, ack.cursor) == ("running", cursor_of(0))
    await runtime.stop_worker(worker.worker_ref)
    assert (await runtime.interrupt_worker(worker.worker_ref)).status == "stopped"
    assert told(published.events) == ["shutdown"]


async def test_an_interrupt_that_the_backend_cannot_do_is_refused(runtime, puppet, busy):
    puppet.interrupted = BackendAnswer("unsupported", "this agent takes no interrupts")
    with pytest.raises(WorkerExecutionRejected, match="takes no interrupts"):
        await runtime.interrupt_worker(busy.worker_ref)


async def test_an_interrupt_amid_a_stop_waits_for_it(runtime, puppet, busy):
    puppet.gate.clear()
    stopping = asyncio.create_task(runtime.stop_worker(busy.worker_ref))
    await until(lambda: "stop" in puppet.told)
    interrupting = asyncio.create_task(runtime.interrupt_worker(busy.worker_ref))
    await asyncio.sleep(0)
    puppet.gate.set()
    await stopping
    assert (await interrupting).status == "stopped"
    assert "interrupt" not in puppet.told


async def test_a_stopped_worker_takes_no_patient_input(runtime, busy):
    await runtime.stop_worker(busy.worker_ref)
    with pytest.raises(InvalidRequest):
        await runtime.send_input(busy.worker_ref, patient("late"))


async def test_a_run_that_ends_amid_the_end_of_its_worker_gives_nobody_a_turn(runtime, puppet, published, busy):
    for content in ("second", "third"):
        await runtime.send_input(busy.worker_ref, patient(content))
    puppet.gate.clear()
    stopping = asyncio.create_task(runtime.stop_worker(busy.worker_ref))
    await until(lambda: "stop" in puppet.told)
    await puppet.finish(busy.worker_id)
    await published.until(lambda events: "run_end" in told(events))
    puppet.gate.set()
    await stopping
    assert told(published.events)[-3:] == ["run_end", "alert", "shutdown"]
    message = payloads(published.events)[-2]["data"]["message"]
    assert message == "the Worker was stopped; inputs that waited and are not run: 2"
    assert dispatched(puppet) == ["hello"]


async def test_a_run_that_ends_amid_the_end_of_the_runtime_leaves_to_the_next_life_what_waits(store, puppet):
    async with Runtime(store, puppet) as runtime:
        worker, other = [await runtime.create_worker() for _ in range(2)]
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        puppet.gate.clear()
        stopping = asyncio.create_task(runtime.stop_worker(other.worker_ref))
        await until(lambda: "stop" in puppet.told)
        closing = asyncio.create_task(runtime.close())
        await asyncio.sleep(0)
        before = runtime.head
        await puppet.finish(worker.worker_id)
        await until(lambda: runtime.head > before)
        puppet.gate.set()
        await asyncio.gather(stopping, closing)
        assert dispatched(puppet) == ["hello"]
    async with Runtime(store, puppet):
        await until(lambda: dispatched(puppet) == ["hello", "second"])


async def test_an_input_that_is_on_its_way_as_its_worker_is_lost_runs_once_that_is_back(store, puppet, monkeypatch):
    async with Runtime(store, puppet) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await runtime.send_input(worker.worker_ref, patient("second"))
        reading, may = asyncio.Event(), asyncio.Event()
        read = store.read_entries

        async def read_slowly(*arguments):
            reading.set()
            await may.wait()
            return await read(*arguments)

        monkeypatch.setattr(store, "read_entries", read_slowly)
        await puppet.finish(worker.worker_id)
        await asyncio.wait_for(reading.wait(), 10)
        await puppet.sinks[worker.worker_id].lose("exit", "gone")
        await runtime.restore_worker(worker.worker_ref)
        may.set()
        await until(lambda: puppet.told[-2:] == ["dispatch second", "start"])
        assert puppet.told.count("start") == 2
        assert puppet.told.count("withdraw") == 1
