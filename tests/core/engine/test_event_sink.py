"""What a backend may say of a Worker besides events: that it asks for a permission, that its program is gone."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from runtimed.core import BackendAnswer, EventSink, Runtime, Spawn
from runtimed.core.engine.mailbox import RUN_END_S
from runtimed.core.limits import Limits
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import InvalidRequest, PermissionNotFound, StoreFull, WorkerExecutionUnavailable
from runtimed.model.event import (
    ErrorRaised,
    InvokeStart,
    RunEnd,
    StatusChanged,
    SystemItem,
    TextDelta,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
)
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import Permission, PermissionOption, PermissionResolution, Question, Ruling
from runtimed.model.worker import WorkerDetail
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.core.conftest import (
    FailingStore,
    FakeBackend,
    MakeStore,
    RecordingSubscriber,
    result_of,
    run_ready_callbacks,
    snapshot_of,
)

HELLO = WorkerInput("user", "hello")
ALLOW = PermissionOption("yes", "Allow", "allow_once")
REJECT = PermissionOption("no", "Reject", "reject_once")
WRITE = Question("write a file", "call-1", (ALLOW, REJECT), 60.0)


def payloads(events: Sequence[EncodedEvent]) -> list[dict[str, Any]]:
    return [json.loads(event.payload) for event in events]


def event_names(events: Sequence[EncodedEvent]) -> list[str]:
    return [payload["event"] for payload in payloads(events)]


def items(events: Sequence[EncodedEvent]) -> list[dict[str, Any]]:
    return [payload["data"]["item"] for payload in payloads(events) if payload["event"] == "system_item"]


def kinds(events: Sequence[EncodedEvent]) -> list[str]:
    return [item["kind"] for item in items(events)]


@pytest.fixture
async def busy(runtime: Runtime, backend: FakeBackend) -> WorkerDetail:
    """A Worker amid a run."""
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    return worker


@pytest.fixture
def sink(busy: WorkerDetail, backend: FakeBackend) -> EventSink:
    return backend.sinks[busy.worker_id]


async def pending(runtime: Runtime, worker: WorkerDetail) -> tuple[Permission, ...]:
    return (await snapshot_of(runtime, worker.worker_ref)).permissions


async def asked(published: RecordingSubscriber, count: int = 1) -> list[str]:
    events = await published.until(lambda events: kinds(events).count("permission_request") >= count)
    return [item["request_id"] for item in items(events) if item["kind"] == "permission_request"]


async def test_a_question_becomes_a_pending_permission_of_the_snapshot(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    (permission,) = await pending(runtime, busy)
    assert (permission.request_id, permission.title, permission.tool_call_id) == (name, "write a file", "call-1")
    assert permission.options == (ALLOW, REJECT)
    (item,) = items(published.events)
    assert item["options"] == [
        {"option_id": "yes", "name": "Allow", "kind": "allow_once"},
        {"option_id": "no", "name": "Reject", "kind": "reject_once"},
    ]
    assert item["expires_at"].endswith("Z")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("end", [RunEnd("finished"), RunEnd("rolled_back")])
async def test_the_end_of_a_run_first_cancels_pending_permissions(
    runtime: Runtime,
    busy: WorkerDetail,
    backend: FakeBackend,
    sink: EventSink,
    published: RecordingSubscriber,
    end: RunEnd,
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    await backend.say(busy.worker_id, end)
    assert await asking == Ruling("cancelled")
    assert event_names(published.events)[-2:] == ["system_item", "run_end"]
    assert items(published.events)[-1] == {
        "kind": "permission_resolved",
        "request_id": name,
        "outcome": "cancelled",
        "by": "runtime",
    }
    assert await pending(runtime, busy) == ()


async def test_a_question_that_nobody_answers_expires(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    ruling = await sink.ask(Question("write a file", None, (ALLOW, REJECT), 0.01))
    assert ruling == Ruling("expired")
    assert [(item["kind"], item.get("outcome")) for item in items(published.events)] == [
        ("permission_request", None),
        ("permission_resolved", "expired"),
    ]
    assert items(published.events)[-1]["by"] == "deadline"
    assert await pending(runtime, busy) == ()


async def test_a_question_that_would_wait_for_ever_waits_a_year(
    runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(Question("write a file", None, (ALLOW, REJECT), float("inf"))))
    await asked(published)
    (permission,) = await pending(runtime, busy)
    assert datetime.fromisoformat(permission.expires_at) > datetime.now(UTC) + timedelta(days=365)
    await backend.finish(busy.worker_id)
    assert await asking == Ruling("cancelled")


async def test_a_ruling_of_the_profile_is_published_at_once(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    assert await sink.ask(Question("write", None, (ALLOW, REJECT), 60.0, ruled="yes")) == Ruling("selected", "yes")
    request, resolution = items(published.events)
    assert (request["kind"], resolution["by"], resolution["option_id"]) == ("permission_request", "profile", "yes")


async def test_a_backend_that_stops_asking_leaves_no_pending_permission(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    await asked(published)
    asking.cancel()
    await published.until(lambda events: "permission_resolved" in kinds(events))
    assert await pending(runtime, busy) == ()


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
async def test_the_end_of_a_worker_cancels_pending_permissions(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber, way: str
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    await asked(published)
    await getattr(runtime, way)(busy.worker_ref)
    assert await asking == Ruling("cancelled")
    assert event_names(published.events)[-3:] == ["system_item", "run_end", "shutdown"]
    assert await sink.ask(WRITE) == Ruling("cancelled")
    assert kinds(published.events).count("permission_request") == 1


async def test_a_question_outside_of_a_run_is_cancelled_with_an_alert(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    assert await backend.sinks[worker.worker_id].ask(WRITE) == Ruling("cancelled")
    (alert,) = payloads(published.events)
    assert "no run is active" in alert["data"]["message"]


async def test_one_question_more_than_may_be_pending_is_cancelled_with_an_alert(backend: FakeBackend) -> None:
    async with Runtime(MemoryStore(), backend, limits=Limits(max_pending_permissions=2)) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        sink = backend.sinks[worker.worker_id]
        waiting = [asyncio.create_task(sink.ask(WRITE)) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(await pending(runtime, worker)) < 2:
                await asyncio.sleep(0)
        assert await sink.ask(WRITE) == Ruling("cancelled")
        assert len(await pending(runtime, worker)) == 2
        await backend.finish(worker.worker_id)
        assert await asyncio.gather(*waiting) == [Ruling("cancelled")] * 2


async def test_a_question_in_a_full_store_is_asked_once_there_is_room(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        failing_store.fault = StoreFull("no room")
        asking = asyncio.create_task(backend.sinks[worker.worker_id].ask(WRITE))
        while not failing_store.tried:
            await asyncio.sleep(0)
        assert await pending(runtime, worker) == ()
        failing_store.fault = None
        async with asyncio.timeout(10):
            while not await pending(runtime, worker):
                await asyncio.sleep(0.01)
        await backend.finish(worker.worker_id)
        assert await asking == Ruling("cancelled")


@pytest.mark.parametrize("kind", ["permission_request", "permission_resolved", "embedded_worker_system_input"])
async def test_a_backend_cannot_emit_events_of_the_runtime(
    backend: FakeBackend, busy: WorkerDetail, kind: str
) -> None:
    with pytest.raises(ValueError, match=kind):
        await backend.say(busy.worker_id, SystemItem({"kind": kind}))


async def test_pending_permissions_are_in_the_snapshot_of_every_cursor_up_to_their_resolution(
    runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    await asked(published)
    await backend.say(busy.worker_id, TextDelta("one"))
    await backend.finish(busy.worker_id)
    await asking
    events = await published.until(lambda events: "run_end" in event_names(events))
    shown = []
    for event in events:
        snapshot = await snapshot_of(runtime, busy.worker_ref, event.sequence)
        shown.append((json.loads(event.payload)["event"], len(snapshot.permissions)))
    assert shown == [("system_item", 1), ("text_delta", 1), ("text_done", 1), ("system_item", 0), ("run_end", 0)]


async def test_a_restart_cancels_pending_permissions(store: MemoryStore, backend: FakeBackend) -> None:
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        asking = asyncio.create_task(backend.sinks[worker.worker_id].ask(WRITE))
        async with asyncio.timeout(10):
            while not await pending(runtime, worker):
                await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with Runtime(store, backend) as runtime:
        assert await pending(runtime, worker) == ()
        events = await runtime.events(worker.worker_ref, 0)
        assert event_names(events)[-3:] == ["system_item", "error", "run_end"]
        assert items(events)[-1]["by"] == "runtime"


async def test_a_restart_cancels_pending_permissions_of_a_worker_that_reported_idle(
    store: MemoryStore, backend: FakeBackend
) -> None:
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await backend.say(worker.worker_id, InvokeStart("wakeup"))
        asking = asyncio.create_task(backend.sinks[worker.worker_id].ask(WRITE))
        async with asyncio.timeout(10):
            while not await pending(runtime, worker):
                await asyncio.sleep(0)
        await backend.say(worker.worker_id, StatusChanged("idle"))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with Runtime(store, backend) as runtime:
        assert await pending(runtime, worker) == ()
        assert items(await runtime.events(worker.worker_ref, 0))[-1]["outcome"] == "cancelled"


async def test_a_lost_program_closes_its_run_in_good_order(
    runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, sink: EventSink, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, InvokeStart("user_send"), ThinkingStart(), ThinkingDelta("hm"), TextDelta("so"))
    await backend.say(busy.worker_id, ToolCallStart("call-1", "write"))
    asking = asyncio.create_task(sink.ask(WRITE))
    await asked(published)
    await sink.lose("oom", "the program used more than 4 GiB of memory (max_memory_bytes)")
    assert await asking == Ruling("cancelled")
    assert event_names(published.events)[-8:] == [
        "thinking_done",
        "text_done",
        "tool_call_done",
        "tool_result",
        "system_item",
        "error",
        "alert",
        "run_end",
    ]
    _, _, _, _, _, error, alert, end = payloads(published.events)[-8:]
    assert (error["data"]["code"], error["data"]["reason"]) == ("internal", "oom")
    assert (alert["data"]["level"], alert["data"]["source"]) == ("error", "worker")
    assert end["data"] == {"result": "rolled_back"}


async def test_a_worker_whose_program_is_lost_is_errored_and_takes_no_input(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink
) -> None:
    await sink.lose("exit", "the program ended with status 3")
    worker = runtime.worker(busy.worker_ref)
    assert (worker.status, worker.execution.backend, worker.execution.run_state) == (
        "running",
        "unconnected",
        "errored",
    )
    result = result_of(worker)
    assert (result.operation, result.outcome, result.message) == (
        "input",
        "errored",
        "the program ended with status 3",
    )
    with pytest.raises(WorkerExecutionUnavailable, match="status 3"):
        await runtime.send_input(busy.worker_ref, HELLO)


async def test_a_program_lost_between_runs_ends_no_run(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    await backend.sinks[worker.worker_id].lose("exit", "gone")
    assert event_names(published.events) == ["error", "alert"]
    assert result_of(runtime.worker(worker.worker_ref)).operation == "spawn"


async def test_nothing_is_published_after_a_loss(
    runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, sink: EventSink, published: RecordingSubscriber
) -> None:
    await sink.lose("exit", "gone")
    said = len(published.events)
    await backend.say(busy.worker_id, TextDelta("still here"), RunEnd("finished"))
    await sink.lose("exit", "gone again")
    assert await sink.ask(WRITE) == Ruling("cancelled")
    assert len(published.events) == said


async def test_a_program_lost_while_it_is_spawned_leaves_its_worker_errored(
    runtime: Runtime, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spawn(_backend: FakeBackend, _spawn: Spawn, sink: EventSink) -> BackendAnswer:
        await sink.lose("exit", "the program ended with status 127")
        return BackendAnswer("accepted")

    monkeypatch.setattr(type(backend), "spawn", spawn)
    worker = await runtime.create_worker()
    assert (worker.execution.backend, worker.execution.run_state) == ("unconnected", "errored")
    assert "127" in (result_of(worker).message or "")


async def test_the_end_of_a_run_closes_open_blocks(
    runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, TextDelta("half a sen"), ToolCallStart("call-1", "write"))
    await backend.finish(busy.worker_id)
    events = await published.until(lambda events: "run_end" in event_names(events))
    assert event_names(events)[-4:] == ["text_done", "tool_call_done", "tool_result", "run_end"]
    assert payloads(events)[-3]["data"]["arguments"] == "{}"
    page = await runtime.transcript(busy.worker_ref)
    assert page.items[-1].content == "half a sen"


async def test_an_answer_of_a_client_reaches_the_backend(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    resolution = await runtime.answer_permission(busy.worker_ref, name, "yes")
    assert (resolution.request_id, resolution.outcome, resolution.by, resolution.option_id) == (
        name,
        "selected",
        "token:default",
        "yes",
    )
    assert await asking == Ruling("selected", "yes")
    assert items(published.events)[-1] == {
        "kind": "permission_resolved",
        "request_id": name,
        "outcome": "selected",
        "option_id": "yes",
        "by": "token:default",
    }


async def test_a_client_may_cancel_a_permission(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    assert (await runtime.answer_permission(busy.worker_ref, name, None)).outcome == "cancelled"
    assert await asking == Ruling("cancelled")


async def test_of_two_answers_the_first_counts(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    answers = await asyncio.gather(
        runtime.answer_permission(busy.worker_ref, name, "yes"),
        runtime.answer_permission(busy.worker_ref, name, "no"),
        return_exceptions=True,
    )
    assert isinstance(answers[0], PermissionResolution)
    assert answers[0].option_id == "yes"
    assert isinstance(answers[1], PermissionNotFound)
    assert await asking == Ruling("selected", "yes")


async def test_the_backend_gets_no_ruling_before_it_is_stored(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        asking = asyncio.create_task(backend.sinks[worker.worker_id].ask(WRITE))
        async with asyncio.timeout(10):
            while not await pending(runtime, worker):
                await asyncio.sleep(0)
        failing_store.fault = StoreFull("no room")
        (permission,) = runtime.permissions(worker.worker_ref)
        with pytest.raises(StoreFull):
            await runtime.answer_permission(worker.worker_ref, permission.request_id, "yes")
        assert not asking.done()
        assert runtime.permissions(worker.worker_ref) == (permission,)
        failing_store.fault = None
        await runtime.answer_permission(worker.worker_ref, permission.request_id, "no")
        assert await asking == Ruling("selected", "no")


async def test_an_option_that_was_not_offered_is_refused_with_the_offered_ones(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    with pytest.raises(InvalidRequest, match="yes, no"):
        await runtime.answer_permission(busy.worker_ref, name, "maybe")
    assert len(await pending(runtime, busy)) == 1
    await runtime.cancel_worker(busy.worker_ref)
    await asking


async def test_a_permission_request_that_is_not_pending_is_not_found(runtime: Runtime, busy: WorkerDetail) -> None:
    with pytest.raises(PermissionNotFound):
        await runtime.answer_permission(busy.worker_ref, "0000", "yes")


FORM = attrs.evolve(
    WRITE, tool_kind="elicitation", schema={"properties": {"branch": {"type": "string"}}, "required": ["branch"]}
)


async def test_a_form_is_filled_and_only_its_backend_learns_with_what(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(FORM))
    (name,) = await asked(published)
    (request,) = items(published.events)
    with pytest.raises(InvalidRequest, match=r"content\.branch"):
        await runtime.answer_permission(busy.worker_ref, name, "yes")

    resolution = await runtime.answer_permission(busy.worker_ref, name, None, content={"branch": "main"})

    assert (request["tool_kind"], request["schema"]) == ("elicitation", FORM.schema)
    assert await asking == Ruling("selected", "yes", content={"branch": "main"})
    assert (resolution.outcome, resolution.option_id) == ("selected", "yes")
    assert "main" not in json.dumps(items(published.events)[-1])


@pytest.mark.parametrize(
    ("question", "option_id", "content"), [(WRITE, None, {}), (WRITE, "yes", {}), (FORM, "no", {"branch": "main"})]
)
async def test_a_content_is_refused_where_no_form_is_accepted(
    runtime: Runtime,
    busy: WorkerDetail,
    sink: EventSink,
    published: RecordingSubscriber,
    question: Question,
    option_id: str | None,
    content: dict[str, Any],
) -> None:
    asking = asyncio.create_task(sink.ask(question))
    (name,) = await asked(published)

    with pytest.raises(InvalidRequest, match="content: expected only with"):
        await runtime.answer_permission(busy.worker_ref, name, option_id, content=content)

    await runtime.answer_permission(busy.worker_ref, name, "no")
    assert await asking == Ruling("selected", "no")


async def test_the_reason_of_an_answer_reaches_the_backend_and_the_feed(
    runtime: Runtime, busy: WorkerDetail, sink: EventSink, published: RecordingSubscriber
) -> None:
    asking = asyncio.create_task(sink.ask(WRITE))
    (name,) = await asked(published)
    with pytest.raises(InvalidRequest, match="reason: expected 1 to 4096"):
        await runtime.answer_permission(busy.worker_ref, name, "no", reason="x" * 4097)

    resolution = await runtime.answer_permission(busy.worker_ref, name, "no", reason="not on a Friday")

    assert await asking == Ruling("selected", "no", "not on a Friday")
    assert resolution.reason == items(published.events)[-1]["reason"] == "not on a Friday"


BROKEN = ErrorRaised("provider_error", "it broke")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing run_end is added at once."""
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 0.05)


def alerts(events: Sequence[EncodedEvent]) -> list[str]:
    return [payload["data"]["message"] for payload in payloads(events) if payload["event"] == "alert"]


async def test_a_run_end_is_added_after_an_error_that_nothing_follows(
    soon: None, runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, InvokeStart("user_send"), BROKEN)
    events = await published.until(lambda events: "run_end" in event_names(events))
    assert event_names(events)[-2:] == ["error", "run_end"]
    assert payloads(events)[-1]["data"] == {"result": "rolled_back"}
    assert runtime.worker(busy.worker_ref).execution.run_state == "idle"


async def test_a_run_end_of_the_backend_is_the_only_one_after_its_error(
    clock: SimpleNamespace, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, BROKEN)
    await backend.say(busy.worker_id, RunEnd("finished"))
    await run_ready_callbacks()

    clock.now += 2 * RUN_END_S
    await run_ready_callbacks()

    assert event_names(published.events)[-2:] == ["error", "run_end"]
    assert payloads(published.events)[-1]["data"] == {"result": "finished"}


async def test_a_run_end_that_comes_after_it_was_added_is_dropped_with_an_alert(
    soon: None, runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, BROKEN)
    await published.until(lambda events: "run_end" in event_names(events))
    await backend.say(busy.worker_id, RunEnd("finished"))
    events = await published.until(lambda events: "alert" in event_names(events))
    assert event_names(events).count("run_end") == 1
    assert "run_end was dropped" in alerts(events)[0]


async def test_the_run_after_one_that_an_error_ended_has_its_own_run_end(
    soon: None, runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, BROKEN)
    await published.until(lambda events: "run_end" in event_names(events))
    await runtime.send_input(busy.worker_ref, HELLO)
    await backend.finish(busy.worker_id)
    events = await published.until(lambda events: event_names(events).count("run_end") == 2)
    assert payloads(events)[-1]["data"] == {"result": "finished"}
    assert "alert" not in event_names(events)


async def test_an_input_after_an_error_begins_after_the_missing_run_end(
    runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, BROKEN)
    await published.until(lambda events: "error" in event_names(events))
    await runtime.send_input(busy.worker_ref, HELLO)
    assert event_names(published.events)[-3:] == ["error", "run_end", "user_message"]


async def test_events_after_an_error_delay_the_added_run_end(
    clock: SimpleNamespace,
    busy: WorkerDetail,
    backend: FakeBackend,
    published: RecordingSubscriber,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 1.0)
    await backend.say(busy.worker_id, BROKEN)
    await run_ready_callbacks()
    for _ in range(8):
        clock.now += 0.75
        await backend.say(busy.worker_id, TextDelta("still here"))
        await run_ready_callbacks()
    clock.now += 0.75
    await run_ready_callbacks()
    assert "run_end" not in event_names(published.events)

    clock.now += 0.25
    await run_ready_callbacks()

    assert event_names(published.events)[-1] == "run_end"


async def test_an_error_outside_of_a_run_ends_none(
    soon: None, runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    await backend.say(worker.worker_id, BROKEN)
    await asyncio.sleep(0.15)
    assert event_names(published.events) == ["error"]


async def test_a_late_run_end_does_not_end_the_next_run(
    soon: None, runtime: Runtime, busy: WorkerDetail, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    await backend.say(busy.worker_id, InvokeStart("user_send"), BROKEN)
    await published.until(lambda events: "run_end" in event_names(events))
    await runtime.send_input(busy.worker_ref, HELLO)

    await backend.say(busy.worker_id, RunEnd("finished"))

    events = await published.until(lambda events: "alert" in event_names(events))
    assert event_names(events).count("run_end") == 1
    assert runtime.worker(busy.worker_ref).execution.run_state == "busy"
    await backend.say(busy.worker_id, InvokeStart("user_send"), RunEnd("finished"))
    events = await published.until(lambda events: event_names(events).count("run_end") == 2)
    assert event_names(events)[-2:] == ["invoke_start", "run_end"]


@pytest.fixture(params=["memory", "fs"])
def kept_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Makes the store of one Runtime, again and again."""
    memory = MemoryStore()
    return lambda: memory if request.param == "memory" else SqliteStore(tmp_path / "store")


async def test_a_run_end_that_a_crash_prevented_is_added_at_the_next_start(
    kept_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 60)
    monkeypatch.setattr(Runtime, "_settle", crashed)
    async with Runtime(kept_store(), backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await backend.say(worker.worker_id, BROKEN)
        while runtime.worker(worker.worker_ref).execution.run_state == "busy":
            await asyncio.sleep(0)
    for _ in range(2):
        async with Runtime(kept_store(), FakeBackend()) as again:
            assert event_names(await again.events(worker.worker_ref, 0)) == ["user_message", "error", "run_end"]


async def crashed(_runtime: Runtime) -> None:
    """In place of what a close does for output and ends of runs that are not stored yet."""


async def test_an_error_that_a_backend_emits_while_closing_gets_its_run_end(
    kept_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 60)
    async with Runtime(kept_store(), backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        monkeypatch.setattr(FakeBackend, "close", lambda _backend: backend.say(worker.worker_id, BROKEN))
    async with Runtime(kept_store(), FakeBackend()) as again:
        assert event_names(await again.events(worker.worker_ref, 0)) == ["user_message", "error", "run_end"]


@pytest.mark.parametrize("end", ["lose", "stop", "close"])
async def test_a_missing_run_end_is_added_before_the_end_of_its_worker(
    store: MemoryStore, backend: FakeBackend, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.core.engine.mailbox.RUN_END_S", 60)
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await backend.say(worker.worker_id, BROKEN)
        while runtime.worker(worker.worker_ref).execution.run_state == "busy":
            await asyncio.sleep(0)
        if end == "lose":
            await backend.sinks[worker.worker_id].lose("exit", "gone")
        elif end == "stop":
            await runtime.stop_worker(worker.worker_ref)
    async with Runtime(store, backend) as runtime:
        assert event_names(await runtime.events(worker.worker_ref, 0)).count("run_end") == 1
