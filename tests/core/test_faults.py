"""The Runtime when its store or its backend fails, at each step."""

import asyncio
import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest

from runtimed.core import BackendAnswer, Runtime
from runtimed.core.engine import mailbox as mailboxes
from runtimed.core.limits import Limits
from runtimed.core.state.change import EncodedEvent, StoredState
from runtimed.errors import InvalidRequest, RuntimeStopped, StoreFull
from runtimed.model.bundle import BundleMetadata, ConfigBundle, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.event import (
    RunEnd,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingDone,
    ToolCallArgsDelta,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
)
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.sqlite import SqliteStore
from tests.core.conftest import FailingStore, FakeBackend, RecordingSubscriber, SlowStore

HELLO = WorkerInput("user", "hello")
FULL = StoreFull("there is no room")


def event_names(events: Sequence[EncodedEvent]) -> list[str]:
    return [json.loads(event.payload)["event"] for event in events]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "STORE_RETRY_S", 0.01)


async def test_a_runtime_starts_on_a_full_store(failing_store: FailingStore, backend: FakeBackend) -> None:
    async with Runtime(failing_store, backend) as first:
        worker = await first.create_worker()
        await first.send_input(worker.worker_ref, HELLO)
        before = first.head
    failing_store.fault = FULL
    async with Runtime(failing_store, backend) as second:
        assert [item.content for item in (await second.transcript(worker.worker_ref)).items] == ["hello"]
        with pytest.raises(StoreFull):
            await second.send_input(worker.worker_ref, HELLO)
        failing_store.fault = None
        await until(lambda: second.newest_sequence(worker.worker_ref) > before)
        assert event_names(await second.events(worker.worker_ref, before)) == ["error", "run_end"]


async def test_a_start_that_fails_closes_the_store(failing_store: FailingStore, backend: FakeBackend) -> None:
    async with Runtime(failing_store, backend) as first:
        worker = await first.create_worker()
        await first.send_input(worker.worker_ref, HELLO)
    failing_store.fault = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        await Runtime(failing_store, backend).start()
    failing_store.fault = None
    with pytest.raises(RuntimeStopped):
        await failing_store.newest_entries(worker.worker_id, 1, Limits().transcript_page)


async def test_a_start_that_is_cancelled_while_the_store_opens_closes_it(
    backend: FakeBackend, tmp_path: Path
) -> None:
    opened = asyncio.Event()

    class SlowStore(SqliteStore):
        async def open(self, runtime_id: RuntimeId | None) -> StoredState:
            state = await super().open(runtime_id)
            opened.set()
            await asyncio.Event().wait()
            return state

    runtime = Runtime(SlowStore(tmp_path / "store"), backend)
    starting = asyncio.ensure_future(runtime.start())
    await opened.wait()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    async with Runtime(SqliteStore(tmp_path / "store"), backend) as again:
        assert again.summary().status == "running"


async def test_a_stop_on_a_full_store_is_refused_but_happens_once_there_is_room(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
        failing_store.fault = FULL
        with pytest.raises(StoreFull):
            await runtime.stop_worker(worker.worker_ref)
        assert runtime.worker(worker.worker_ref).execution.backend == "unconnected"
        failing_store.fault = None
        await until(lambda: runtime.worker(worker.worker_ref).status == "stopped")
        assert (await runtime.stop_worker(worker.worker_ref)).status == "stopped"
        assert event_names(await runtime.events(worker.worker_ref, 0)) == ["shutdown"]


async def test_pending_decisions_do_not_reconnect_a_worker_whose_backend_is_lost(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    async with Runtime(slow_store, backend) as runtime:
        worker = await runtime.create_worker()
        slow_store.may.clear()
        await backend.say(worker.worker_id, TextDelta("on its way"))
        stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
        await until(lambda: runtime.worker(worker.worker_ref).execution.backend == "unconnected")
        slow_store.fault = FULL
        slow_store.may.set()
        with pytest.raises(StoreFull):
            await stopping
        assert runtime.worker(worker.worker_ref).execution.backend == "unconnected"
        with pytest.raises(StoreFull):
            await runtime.send_input(worker.worker_ref, HELLO)
        slow_store.fault = None
        await until(lambda: runtime.worker(worker.worker_ref).status == "stopped")
        assert backend.calls == ["spawn", "stop"]
        assert event_names(await runtime.events(worker.worker_ref, 0)) == ["text_delta", "text_done", "shutdown"]


async def test_the_creation_of_a_stored_worker_succeeds_though_its_spawn_cannot_be_stored(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        backend.gate.clear()
        creating = asyncio.ensure_future(runtime.create_worker())
        await until(lambda: "spawn" in backend.calls)
        failing_store.fault = FULL
        backend.gate.set()
        worker = await creating
        failing_store.fault = None
        await until(lambda: runtime.worker(worker.worker_ref).execution.backend == "connected")
        await runtime.send_input(worker.worker_ref, HELLO)


async def test_refused_requests_do_not_multiply_the_retries_on_a_full_store(
    failing_store: FailingStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes, "STORE_RETRY_S", 0.2)
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
        failing_store.fault = FULL
        await backend.say(worker.worker_id, TextDelta("kept"))
        for _ in range(50):
            with pytest.raises(StoreFull):
                await runtime.send_input(worker.worker_ref, HELLO)
        tried = failing_store.tried
        await until(lambda: failing_store.tried >= tried + 2)
        assert failing_store.tried == tried + 2
        failing_store.fault = None


async def test_a_backend_whose_start_raises_does_not_leave_its_caller_waiting(
    runtime: Runtime, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError("boom")

    worker = await runtime.create_worker()
    monkeypatch.setattr(type(backend), "start", broken)
    ack = await runtime.send_input(worker.worker_ref, HELLO)
    assert ack.transcript_sequence == 1
    assert "boom" in caplog.text
    caplog.clear()


async def test_an_event_that_cannot_be_decided_is_dropped_alone(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    unencodable = SystemItem([1])  # type: ignore[arg-type] # what a backend in plain Python may send
    await asyncio.gather(
        backend.say(worker.worker_id, TextDelta("a")),
        backend.say(worker.worker_id, unencodable),
        backend.say(worker.worker_id, TextDone("ab")),
    )
    events = await published.until(lambda events: "text_done" in event_names(events))
    assert event_names(events) == ["text_delta", "text_done"]


async def test_a_text_without_an_end_is_bounded(failing_store: FailingStore, backend: FakeBackend) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_open_text=10)) as runtime:
        worker = await runtime.create_worker()
        await backend.say(worker.worker_id, TextDelta("12345"), TextDelta("12345"), TextDone("1234512345"))
        await backend.say(worker.worker_id, TextDelta("1234567890"))
        with pytest.raises(ValueError, match="text_done"):
            await backend.say(worker.worker_id, TextDelta("1"))


@pytest.mark.parametrize(
    "end", [ThinkingDone("12345"), ToolCallDone("other", "look", "{}"), ToolResult("other", "", is_error=False)]
)
async def test_the_end_of_something_else_does_not_make_room_for_a_text(
    failing_store: FailingStore, backend: FakeBackend, end: ThinkingDone | ToolCallDone | ToolResult
) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_open_text=10)) as runtime:
        worker = await runtime.create_worker()
        await backend.say(worker.worker_id, TextDelta("1234567890"), end)
        with pytest.raises(ValueError, match="max_open_text"):
            await backend.say(worker.worker_id, TextDelta("1"))


@pytest.mark.parametrize(
    "end", [ToolCallDone("t", "look", "[12345678]"), ToolResult("t", "seen", is_error=False), RunEnd("finished")]
)
async def test_the_arguments_of_a_tool_call_without_an_end_are_bounded(
    failing_store: FailingStore, backend: FakeBackend, end: RunEnd | ToolCallDone | ToolResult
) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_open_text=10)) as runtime:
        worker = await runtime.create_worker()
        await backend.say(worker.worker_id, ToolCallStart("t", "look"), ToolCallArgsDelta("t", "[12345678]"), end)
        await backend.say(worker.worker_id, ToolCallStart("u", "look"), ToolCallArgsDelta("u", "[1234"))
        await backend.say(worker.worker_id, TextDelta("12345"))
        with pytest.raises(ValueError, match="tool_call_done"):
            await backend.say(worker.worker_id, ToolCallArgsDelta("u", "5"))


async def test_workers_are_bounded(failing_store: FailingStore, backend: FakeBackend) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_workers=2)) as runtime:
        outcomes = await asyncio.gather(*(runtime.create_worker() for _ in range(4)), return_exceptions=True)
        assert [getattr(outcome, "code", "created") for outcome in outcomes].count("created") == 2
        assert runtime.summary().worker_count == 2


async def test_a_worker_that_is_still_being_spawned_counts_once(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_workers=2)) as runtime:
        backend.gate.clear()
        creating = [asyncio.ensure_future(runtime.create_worker())]
        await until(lambda: "spawn" in backend.calls)
        creating.append(asyncio.ensure_future(runtime.create_worker()))
        await until(lambda: backend.calls.count("spawn") == 2 or creating[1].done())
        backend.gate.set()
        assert [worker.worker_id for worker in await asyncio.gather(*creating)] == [
            "worker-00000001",
            "worker-00000002",
        ]


def bundle(name: str) -> ConfigBundle:
    unsigned = ConfigBundle(BundleMetadata(name, "", "1", "workspace-1", "2026-06-26T00:00:00Z", Provenance("test")))
    return attrs.evolve(unsigned, metadata=attrs.evolve(unsigned.metadata, digest=bundle_digest(unsigned)))


async def test_bundles_are_bounded_though_they_come_at_once(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_bundles=2)) as runtime:
        pushes = (runtime.put_bundle(bundle(name)) for name in "aabcd")
        outcomes = await asyncio.gather(*pushes, return_exceptions=True)
        assert [getattr(outcome, "code", "kept") for outcome in outcomes] == ["kept"] * 3 + ["invalid_request"] * 2
        assert [kept.id for kept in runtime.bundles()] == ["a", "b"]


async def test_a_bundle_whose_caller_was_cancelled_counts_while_it_is_being_stored(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    async with Runtime(slow_store, backend, limits=Limits(max_bundles=1)) as runtime:
        slow_store.may.clear()
        pushing = asyncio.ensure_future(runtime.put_bundle(bundle("a")))
        await asyncio.sleep(0)
        pushing.cancel()
        await asyncio.wait([pushing])
        late = asyncio.ensure_future(runtime.put_bundle(bundle("b")))
        await asyncio.sleep(0)
        slow_store.may.set()
        with pytest.raises(InvalidRequest, match="max_bundles"):
            await late
        await until(runtime.bundles)
        assert [kept.id for kept in runtime.bundles()] == ["a"]


async def test_a_bundle_that_could_not_be_stored_does_not_count(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend, limits=Limits(max_bundles=1)) as runtime:
        failing_store.fault = FULL
        with pytest.raises(StoreFull):
            await runtime.put_bundle(bundle("a"))
        failing_store.fault = None
        await runtime.put_bundle(bundle("b"))
        assert [kept.id for kept in runtime.bundles()] == ["b"]


async def test_a_bundle_whose_caller_was_cancelled_fails_without_a_log_message(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with Runtime(slow_store, backend) as runtime:
        slow_store.fault = FULL
        slow_store.may.clear()
        pushing = asyncio.ensure_future(runtime.put_bundle(bundle("a")))
        await until(lambda: slow_store.tried)
        pushing.cancel()
        await asyncio.wait([pushing])
        del pushing
        slow_store.may.set()
        slow_store.fault = None
        await runtime.put_bundle(bundle("b"))
    gc.collect()
    assert complaints == []


async def test_a_close_that_was_cancelled_can_be_repeated(failing_store: FailingStore, backend: FakeBackend) -> None:
    runtime = Runtime(failing_store, backend)
    await runtime.start()
    worker = await runtime.create_worker()
    backend.gate.clear()
    stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
    await until(lambda: "stop" in backend.calls)
    closing = asyncio.ensure_future(runtime.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert not stopping.done()
    backend.gate.set()
    await runtime.close()
    assert (await stopping).status == "stopped"
    assert backend.calls[-1] == "close"


async def test_a_cancel_hurries_a_stop_that_takes_its_time(
    runtime: Runtime, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await runtime.create_worker()
    backend.gate.clear()

    async def cancel(self: FakeBackend, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        self.calls.append("cancel")
        self.gate.set()
        return BackendAnswer("accepted")

    monkeypatch.setattr(type(backend), "cancel", cancel)
    stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
    await until(lambda: "stop" in backend.calls)
    assert await runtime.cancel_worker(worker.worker_ref) == await stopping


async def test_a_runtime_that_was_not_started_raises_runtime_stopped(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    runtime = Runtime(failing_store, backend)
    for ask in (runtime.summary, lambda: runtime.ref("worker-00000001"), lambda: runtime.head):
        with pytest.raises(RuntimeStopped):
            ask()
    with pytest.raises(RuntimeStopped):
        await runtime.create_worker(CreateWorkerRequest())
    async with runtime:
        with pytest.raises(RuntimeStopped):
            await runtime.start()
