"""The Runtime as a program that embeds it sees it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from runtimed.core import BackendAnswer, Runtime
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.core.state.change_builder import MAX_JOINED_TEXT
from runtimed.errors import (
    InvalidProfileSelector,
    InvalidRequest,
    InvalidWorkerId,
    RuntimeStopped,
    StatePoisoned,
    StoreFull,
    StoreIo,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
    WorkerNotFound,
    WrongRuntime,
)
from runtimed.model.event import (
    ErrorRaised,
    Payload,
    RunEnd,
    Shutdown,
    TextBlock,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallStart,
    UserMessage,
)
from runtimed.model.execution import Outcome
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef, cursor_of
from runtimed.model.interaction import WorkerInput
from runtimed.model.principal import Principal
from runtimed.model.worker import CreateWorkerRequest, NamedProfile, RoleIntent, TaskIntent, WorkerDetail
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from runtimed.wire.converter import restore_payload
from tests.core.conftest import FailingStore, FakeBackend, RecordingSubscriber, result_of, snapshot_of

HELLO = WorkerInput("user", "hello")


def event_names(events: Sequence[EncodedEvent]) -> list[str]:
    return [json.loads(event.payload)["event"] for event in events]


async def create(runtime: Runtime) -> WorkerDetail:
    return await runtime.create_worker(CreateWorkerRequest())


def test_importing_the_core_pulls_in_no_http_no_command_line_and_no_database() -> None:
    code = "import runtimed.core, sys; print(sorted({'aiohttp', 'click', 'apsw', 'cattrs'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_importing_the_package_pulls_in_nothing() -> None:
    code = "import sys; before = set(sys.modules); import runtimed; print(set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{'runtimed'}"


async def test_worker_ids_count_up_from_one(runtime: Runtime) -> None:
    created = [await create(runtime) for _ in range(3)]
    assert [worker.worker_id for worker in created] == ["worker-00000001", "worker-00000002", "worker-00000003"]


async def test_a_refused_create_uses_up_no_id(runtime: Runtime) -> None:
    with pytest.raises(InvalidProfileSelector):
        await runtime.create_worker(CreateWorkerRequest(profile=NamedProfile("reviewer")))
    assert (await create(runtime)).worker_id == "worker-00000001"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (CreateWorkerRequest(intent=TaskIntent(" \t")), "intent.objective"),
        (CreateWorkerRequest(intent=RoleIntent("")), "intent.role"),
    ],
)
async def test_a_blank_intent_is_refused_with_its_field(
    runtime: Runtime, request_: CreateWorkerRequest, field: str
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        await runtime.create_worker(request_)
    assert runtime.summary().worker_count == 0


async def test_an_input_is_stored_before_the_backend_may_start_it(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    ack = await runtime.send_input(worker.worker_ref, HELLO)
    assert backend.calls == ["spawn", "dispatch hello", "start"]
    assert (ack.transcript_sequence, ack.cursor) == (1, cursor_of(published.events[0].sequence))
    page = await runtime.transcript(worker.worker_ref)
    assert [(item.role, item.content) for item in page.items] == [("user", "hello")]


async def test_a_worker_is_busy_from_the_input_to_the_end_of_its_run(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    await runtime.send_input(worker.worker_ref, HELLO)
    assert runtime.worker(worker.worker_ref).execution.run_state == "busy"
    await backend.finish(worker.worker_id)
    await published.until(lambda events: "run_end" in event_names(events))
    assert runtime.worker(worker.worker_ref).execution.run_state == "idle"


async def test_an_error_ends_the_run_as_well(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    await runtime.send_input(worker.worker_ref, HELLO)
    await backend.say(worker.worker_id, ErrorRaised("provider_error", "no answer"))
    await published.until(lambda events: "error" in event_names(events))
    assert runtime.worker(worker.worker_ref).execution.run_state == "idle"


@pytest.mark.parametrize("outcome", ["busy", "rejected", "errored", "unsupported"])
async def test_a_refused_input_leaves_only_the_answer_of_the_backend(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber, outcome: Outcome
) -> None:
    worker = await create(runtime)
    backend.dispatched = BackendAnswer(outcome, "not now")
    with pytest.raises(WorkerExecutionRejected, match="not now"):
        await runtime.send_input(worker.worker_ref, HELLO)
    after = runtime.worker(worker.worker_ref)
    assert (result_of(after).operation, result_of(after).outcome) == ("input", outcome)
    assert after.transcript_len == 0
    assert published.events == []
    assert "start" not in backend.calls


async def test_a_failed_spawn_leaves_a_worker_that_shows_the_reason(runtime: Runtime, backend: FakeBackend) -> None:
    backend.spawned = BackendAnswer("rejected", "install the agent")
    worker = await create(runtime)
    assert worker.execution.run_state == "rejected"
    with pytest.raises(WorkerExecutionUnavailable, match="install the agent"):
        await runtime.send_input(worker.worker_ref, HELLO)


async def test_an_exception_of_a_backend_counts_as_the_answer_errored(
    runtime: Runtime, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> NoReturn:
        raise OSError("boom")

    monkeypatch.setattr(type(backend), "spawn", broken)
    worker = await create(runtime)
    result = result_of(worker)
    assert (result.outcome, result.message is None) == ("errored", False)
    assert "boom" not in f"{result.message}"


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "sqlite"])
async def test_an_answer_with_lone_surrogates_is_made_unicode(
    backend: FakeBackend, tmp_path: Path, durable: bool
) -> None:
    backend.spawned = BackendAnswer("rejected", "bad \udc9f byte")
    async with Runtime(SqliteStore(tmp_path / "store") if durable else MemoryStore(), backend) as runtime:
        worker = await create(runtime)
        assert result_of(worker).message == "bad ? byte"
        backend.spawned, backend.dispatched = BackendAnswer("accepted"), BackendAnswer("busy", "\ud800")
        with pytest.raises(WorkerExecutionRejected, match=r"\?"):
            await runtime.send_input((await create(runtime)).worker_ref, HELLO)


async def test_without_a_backend_workers_exist_but_take_no_input(store: MemoryStore) -> None:
    async with Runtime(store) as runtime:
        worker = await create(runtime)
        assert worker.execution.backend == "unconnected"
        with pytest.raises(WorkerExecutionUnavailable):
            await runtime.send_input(worker.worker_ref, HELLO)


async def test_a_finished_text_becomes_an_entry_with_the_same_event(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    await backend.say(worker.worker_id, TextDelta("he"), TextDelta("llo"), TextDone("hello"))
    events = await published.until(lambda events: "text_done" in event_names(events))
    item = (await runtime.transcript(worker.worker_ref)).items[0]
    assert (item.role, item.content, item.cursor) == ("assistant", "hello", cursor_of(events[-1].sequence))


async def test_stop_and_cancel_change_nothing_on_a_worker_that_has_ended(runtime: Runtime) -> None:
    worker = await create(runtime)
    first = await runtime.stop_worker(worker.worker_ref, "enough")
    again = await runtime.stop_worker(worker.worker_ref)
    cancelled = await runtime.cancel_worker(worker.worker_ref)
    assert first == again == cancelled
    assert first.status == "stopped"


async def test_stops_at_the_same_time_end_the_worker_once(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    acks = await asyncio.gather(*(runtime.stop_worker(worker.worker_ref) for _ in range(5)))
    assert len(set(acks)) == 1
    assert backend.calls.count("stop") == 1
    assert event_names(published.events) == ["shutdown"]


async def test_a_stop_in_the_middle_of_a_run_closes_what_is_open(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    await runtime.send_input(worker.worker_ref, HELLO)
    await backend.say(
        worker.worker_id,
        ThinkingStart(),
        ThinkingDelta("hm"),
        ToolCallStart("1", "look"),
        ToolCallArgsDelta("1", "{"),
        TextDelta("half a "),
    )
    await runtime.stop_worker(worker.worker_ref, "enough")
    assert event_names(published.events)[6:] == [
        "thinking_done",
        "text_done",
        "tool_call_done",
        "tool_result",
        "alert",
        "run_end",
        "shutdown",
    ]
    assert (await runtime.transcript(worker.worker_ref)).items[-1].content == "half a "


async def test_late_output_of_a_stopped_worker_is_dropped(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    await runtime.stop_worker(worker.worker_ref)
    await backend.say(worker.worker_id, TextDone("late"))
    other = await create(runtime)
    await backend.say(other.worker_id, TextDone("on time"))
    await published.until(lambda events: "text_done" in event_names(events))
    assert event_names(published.events) == ["shutdown", "text_done"]


async def test_an_input_during_a_stop_is_refused(runtime: Runtime, backend: FakeBackend) -> None:
    worker = await create(runtime)
    backend.gate.clear()
    stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
    async with asyncio.timeout(10):
        while "stop" not in backend.calls:
            await asyncio.sleep(0)
    with pytest.raises(InvalidRequest, match="stopped"):
        await runtime.send_input(worker.worker_ref, HELLO)
    backend.gate.set()
    await stopping


async def test_an_input_that_a_stop_overtakes_is_withdrawn(runtime: Runtime, backend: FakeBackend) -> None:
    worker = await create(runtime)
    backend.gate.clear()
    sending = asyncio.ensure_future(runtime.send_input(worker.worker_ref, HELLO))
    async with asyncio.timeout(10):
        while "dispatch hello" not in backend.calls:
            await asyncio.sleep(0)
    await runtime.cancel_worker(worker.worker_ref)
    backend.gate.set()
    with pytest.raises(InvalidRequest, match="cancelled"):
        await sending
    assert backend.calls[-1] == "withdraw"
    assert (await runtime.transcript(worker.worker_ref)).items == ()


async def test_a_caller_that_goes_away_undoes_nothing(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    sending = asyncio.ensure_future(runtime.send_input(worker.worker_ref, HELLO))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    told = backend.calls[1:]
    assert told in (["dispatch hello", "start"], ["dispatch hello", "withdraw"], [])
    assert (runtime.worker(worker.worker_ref).transcript_len == 1) == ("start" in told)


async def test_a_create_goes_on_when_its_caller_goes_away(runtime: Runtime, backend: FakeBackend) -> None:
    backend.gate.clear()
    creating = asyncio.ensure_future(create(runtime))
    async with asyncio.timeout(10):
        while "spawn" not in backend.calls:
            await asyncio.sleep(0)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    backend.gate.set()
    ref = runtime.ref("worker-00000001")
    async with asyncio.timeout(10):
        while runtime.worker(ref).execution.backend != "connected":
            await asyncio.sleep(0)


async def test_the_runtimes_own_events_cannot_be_forged(runtime: Runtime, backend: FakeBackend) -> None:
    worker = await create(runtime)
    snapshot = (await runtime.snapshot(worker.worker_ref)).payload
    for payload in (UserMessage(()), snapshot, Shutdown()):
        with pytest.raises(ValueError, match=payload.event):
            await backend.say(worker.worker_id, payload)


async def test_an_event_that_cannot_be_encoded_is_dropped_and_the_rest_survives(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    await backend.say(worker.worker_id, TextDelta("before"))
    await asyncio.gather(
        backend.say(worker.worker_id, TextDelta("\ud800")), backend.say(worker.worker_id, TextDelta("after"))
    )
    events = await published.until(lambda events: len(events) == 2)
    assert [json.loads(event.payload)["data"]["text"] for event in events] == ["before", "after"]


async def test_a_reference_to_a_worker_of_another_runtime_is_refused(runtime: Runtime) -> None:
    worker = await create(runtime)
    with pytest.raises(WrongRuntime):
        runtime.worker(WorkerRef(RuntimeId("runtime-other"), worker.worker_id))


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0"])
async def test_a_blank_id_is_no_worker_id(runtime: Runtime, blank: str) -> None:
    with pytest.raises(InvalidWorkerId):
        runtime.ref(blank)


@pytest.mark.parametrize("unknown", ["worker-1", "WORKER-00000001", "worker-0000002a", "a/b", "\0", "x" * 300])
async def test_an_id_of_any_form_that_names_no_worker_is_not_found_and_shown_in_printable_characters(
    runtime: Runtime, unknown: str
) -> None:
    with pytest.raises(WorkerNotFound) as found:
        runtime.worker(runtime.ref(unknown))

    assert found.value.message.isprintable()
    assert len(found.value.message) < 100


async def test_a_snapshot_at_any_sequence_holds_the_output_up_to_it(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    ref = worker.worker_ref
    await runtime.send_input(ref, HELLO)
    await backend.say(worker.worker_id, TextDelta("a"))
    await published.until(lambda events: "text_delta" in event_names(events))
    await backend.say(worker.worker_id, TextDelta("b"), TextDone("ab"), RunEnd("finished"))
    events = await published.until(lambda events: "run_end" in event_names(events))
    seen = []
    for event in events:
        payload = await snapshot_of(runtime, ref, event.sequence)
        blocks = payload.in_flight.blocks if payload.in_flight else ()
        open_text = [block.text for block in blocks if isinstance(block, TextBlock)]
        assert len(open_text) == len(blocks)
        seen.append(([entry.content for entry in payload.entries], open_text, payload.status))
    assert seen == [
        (["hello"], [], "running"),
        (["hello"], ["a"], "running"),
        (["hello"], ["ab"], "running"),
        (["hello", "ab"], [], "running"),
        (["hello", "ab"], [], "idle"),
    ]


async def test_text_that_waits_for_the_same_commit_becomes_one_event(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    pieces: list[Payload] = [
        TextDelta("a"),
        TextDelta("b"),
        ThinkingDelta("!"),
        TextDelta("c"),
        TextDelta("d"),
        TextDone("abcd"),
    ]
    await backend.say(worker.worker_id, *pieces)
    events = await published.until(lambda events: "text_done" in event_names(events))
    assert event_names(events) == ["text_delta", "thinking_delta", "text_delta", "text_done"]
    said = [json.loads(event.payload)["data"]["text"] for event in events]
    assert said == ["ab", "!", "cd", "abcd"]


async def test_joined_text_ends_where_an_event_would_grow_large(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await create(runtime)
    piece = "x" * (MAX_JOINED_TEXT // 2)
    await backend.say(worker.worker_id, *[TextDelta(piece)] * 5, TextDone(piece * 5))
    events = await published.until(lambda events: "text_done" in event_names(events))
    lengths = [len(json.loads(event.payload)["data"]["text"]) for event in events[:-1]]
    assert lengths == [MAX_JOINED_TEXT, MAX_JOINED_TEXT, len(piece)]


async def test_a_restart_on_the_same_store_goes_on_where_it_was(store: MemoryStore, backend: FakeBackend) -> None:
    async with Runtime(store, backend, runtime_id="rt") as first:
        worker = await create(first)
        await first.send_input(worker.worker_ref, HELLO)
        await backend.say(worker.worker_id, TextDelta("half"))
        head = first.head
    async with Runtime(store, backend, runtime_id="rt") as second:
        again = second.worker(worker.worker_ref)
        assert (again.status, again.execution.backend) == ("running", "unconnected")
        assert second.head > head
        page = await second.transcript(worker.worker_ref)
        assert [item.content for item in page.items] == ["hello", "half"]
        assert (await create(second)).worker_id == "worker-00000002"


async def test_a_run_that_a_shutdown_cut_is_closed_once_at_the_next_start(
    store: MemoryStore, backend: FakeBackend
) -> None:
    async with Runtime(store, backend) as first:
        worker = await create(first)
        await first.send_input(worker.worker_ref, HELLO)
        before = first.head
    for _ in range(2):
        async with Runtime(store, backend) as later:
            events = await later.events(worker.worker_ref, before)
            assert event_names(events) == ["error", "run_end"]


async def test_output_that_was_accepted_before_the_close_is_stored(store: MemoryStore, backend: FakeBackend) -> None:
    async with Runtime(store, backend) as first:
        ref = (await first.create_worker()).worker_ref
        for number in range(5):
            await backend.say(ref.worker_id, ThinkingDelta(str(number)))
    async with Runtime(store, backend) as second:
        said = [restore_payload(event.payload) for event in await second.events(ref, 0)]
        assert "".join(payload.text for payload in said if isinstance(payload, ThinkingDelta)) == "01234"


async def test_a_closed_runtime_accepts_no_requests(store: MemoryStore, backend: FakeBackend) -> None:
    runtime = Runtime(store, backend)
    await runtime.start()
    worker = await create(runtime)
    await runtime.close()
    await runtime.close()
    for request in (create(runtime), runtime.send_input(worker.worker_ref, HELLO)):
        with pytest.raises(RuntimeStopped):
            await request
    assert runtime.summary().status == "stopped"


async def test_a_full_store_refuses_requests_and_loses_no_output_of_the_backend(
    backend: FakeBackend, failing_store: FailingStore
) -> None:
    store = failing_store
    async with Runtime(store, backend) as runtime:
        worker = await create(runtime)
        store.fault = StoreFull("there is no room")
        await backend.say(worker.worker_id, TextDone("kept"))
        with pytest.raises(StoreFull):
            await runtime.send_input(worker.worker_ref, HELLO)
        assert backend.calls[-1] == "withdraw"
        assert runtime.worker(worker.worker_ref).transcript_len == 0
        store.fault = None
        await runtime.send_input(worker.worker_ref, HELLO)
        page = await runtime.transcript(worker.worker_ref)
        assert [item.content for item in page.items] == ["kept", "hello"]


async def test_after_a_failed_write_nothing_more_is_accepted_or_published(
    backend: FakeBackend, failing_store: FailingStore
) -> None:
    store = failing_store
    async with Runtime(store, backend) as runtime:
        worker = await create(runtime)
        head = runtime.head
        store.fault = StoreIo("the disk is gone")
        with pytest.raises(StoreIo):
            await runtime.send_input(worker.worker_ref, HELLO)
        store.fault = None
        with pytest.raises(StatePoisoned):
            await runtime.send_input(worker.worker_ref, HELLO)
        assert runtime.head == head
        assert isinstance(runtime.poisoned.result(), StoreIo)


Committed = asyncio.Future[Sequence[EncodedEvent]]


def pass_on(committed: Committed, done: Committed) -> None:
    committed.set_result(done.result())


async def test_a_backend_is_made_to_wait_while_the_store_is_behind(backend: FakeBackend) -> None:
    class SlowStore(MemoryStore):
        held: list[tuple[Change, Committed]] = []
        hold = False

        def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
            if not self.hold:
                return super().commit(change)
            committed = asyncio.get_running_loop().create_future()
            self.held.append((change, committed))
            return committed

        def release(self) -> None:
            self.hold = False
            for change, committed in self.held:
                super().commit(change).add_done_callback(partial(pass_on, committed))

    store = SlowStore()
    async with Runtime(store, backend) as runtime:
        worker = await create(runtime)
        store.hold = True

        async def chatter() -> None:
            for number in range(10_000):
                await backend.say(worker.worker_id, ThinkingDelta(str(number)))

        talking = asyncio.ensure_future(chatter())
        for _ in range(2_000):
            await asyncio.sleep(0)
        assert not talking.done()
        store.release()
        async with asyncio.timeout(30):
            await talking
        ref = runtime.ref(WorkerId(worker.worker_id))
        async with asyncio.timeout(10):
            while runtime.newest_sequence(ref) < 10_000:
                await asyncio.sleep(0)


async def test_a_command_is_logged_with_its_principal(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "runtimed.core.runtime")
    worker = await runtime.create_worker()

    await runtime.stop_worker(worker.worker_ref, principal=Principal("ci", "operator"))

    commands = [record for record in caplog.records if record.getMessage() == "command"]
    assert [(vars(one)["verb"], vars(one)["principal"], vars(one)["worker_id"]) for one in commands] == [
        ("create", "default", None),
        ("stop", "ci", worker.worker_id),
    ]
