"""The Runtime when its store or its backend fails, at each step."""

import asyncio
import gc
import json

import attrs
import pytest

from runtimed.core import BackendAnswer, Runtime
from runtimed.core.engine import mailbox as mailboxes
from runtimed.core.limits import Limits
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
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.sqlite import SqliteStore

HELLO = WorkerInput("user", "hello")
FULL = StoreFull("there is no room")


def names(events):
    return [json.loads(event.payload)["event"] for event in events]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(mailboxes, "STORE_RETRY_S", 0.01)


async def test_a_full_store_is_no_reason_not_to_start(faulty, puppet):
    async with Runtime(faulty, puppet) as first:
        worker = await first.create_worker()
        await first.send_input(worker.worker_ref, HELLO)
        before = first.head
    faulty.fault = FULL
    async with Runtime(faulty, puppet) as second:
        assert [item.content for item in (await second.transcript(worker.worker_ref)).items] == ["hello"]
        with pytest.raises(StoreFull):
            await second.send_input(worker.worker_ref, HELLO)
        faulty.fault = None
        await until(lambda: second.newest_sequence(worker.worker_ref) > before)
        assert names(await second.events(worker.worker_ref, before)) == ["error", "run_end"]


async def test_a_start_that_fails_lets_go_of_the_store(faulty, puppet):
    async with Runtime(faulty, puppet) as first:
        worker = await first.create_worker()
        await first.send_input(worker.worker_ref, HELLO)
    faulty.fault = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        await Runtime(faulty, puppet).start()
    faulty.fault = None
    with pytest.raises(RuntimeStopped):
        await faulty.newest_entries(worker.worker_id, 1, Limits().transcript_page)


async def test_a_start_that_is_given_up_while_the_store_opens_lets_go_of_it(puppet, tmp_path):
    opened = asyncio.Event()

    class Slow(SqliteStore):
        async def open(self, runtime_id):
            await super().open(runtime_id)
            opened.set()
            await asyncio.Event().wait()

    runtime = Runtime(Slow(tmp_path / "store"), puppet)
    starting = asyncio.ensure_future(runtime.start())
    await opened.wait()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    async with Runtime(SqliteStore(tmp_path / "store"), puppet) as again:
        assert again.summary().status == "running"


async def test_a_stop_on_a_full_store_is_refused_but_happens_once_there_is_room(faulty, puppet):
    async with Runtime(faulty, puppet) as runtime:
        worker = await runtime.create_worker()
        faulty.fault = FULL
        with pytest.raises(StoreFull):
            await runtime.stop_worker(worker.worker_ref)
        assert runtime.worker(worker.worker_ref).execution.backend == "unconnected"
        faulty.fault = None
        await until(lambda: runtime.worker(worker.worker_ref).status == "stopped")
        assert (await runtime.stop_worker(worker.worker_ref)).status == "stopped"
        assert names(await runtime.events(worker.worker_ref, 0)) == ["shutdown"]


async def test_nothing_that_was_on_its_way_connects_a_worker_again_that_nothing_runs(slow, puppet):
    async with Runtime(slow, puppet) as runtime:
        worker = await runtime.create_worker()
        slow.may.clear()
        await puppet.say(worker.worker_id, TextDelta("on its way"))
        stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
        await until(lambda: runtime.worker(worker.worker_ref).execution.backend == "unconnected")
        slow.fault = FULL
        slow.may.set()
        with pytest.raises(StoreFull):
            await stopping
        assert runtime.worker(worker.worker_ref).execution.backend == "unconnected"
        with pytest.raises(StoreFull):
            await runtime.send_input(worker.worker_ref, HELLO)
        slow.fault = None
        await until(lambda: runtime.worker(worker.worker_ref).status == "stopped")
        assert puppet.told == ["spawn", "stop"]
        assert names(await runtime.events(worker.worker_ref, 0)) == ["text_delta", "text_done", "shutdown"]


async def test_a_worker_that_was_stored_is_not_refused_because_its_spawn_cannot_be(faulty, puppet):
    async with Runtime(faulty, puppet) as runtime:
        puppet.gate.clear()
        creating = asyncio.ensure_future(runtime.create_worker())
        await until(lambda: "spawn" in puppet.told)
        faulty.fault = FULL
        puppet.gate.set()
        worker = await creating
        faulty.fault = None
        await until(lambda: runtime.worker(worker.worker_ref).execution.backend == "connected")
        await runtime.send_input(worker.worker_ref, HELLO)


async def test_refused_requests_do_not_multiply_the_tries_of_a_full_store(faulty, puppet, monkeypatch):
    monkeypatch.setattr(mailboxes, "STORE_RETRY_S", 0.2)
    async with Runtime(faulty, puppet) as runtime:
        worker = await runtime.create_worker()
        faulty.fault = FULL
        await puppet.say(worker.worker_id, TextDelta("kept"))
        for _ in range(50):
            with pytest.raises(StoreFull):
                await runtime.send_input(worker.worker_ref, HELLO)
        tried = faulty.tried
        await until(lambda: faulty.tried >= tried + 2)
        assert faulty.tried == tried + 2
        faulty.fault = None


async def test_a_backend_whose_start_raises_does_not_leave_its_caller_waiting(runtime, puppet, monkeypatch, caplog):
    def broken(*_):
        raise OSError("boom")

    worker = await runtime.create_worker()
    monkeypatch.setattr(type(puppet), "start", broken)
    ack = await runtime.send_input(worker.worker_ref, HELLO)
    assert ack.transcript_sequence == 1
    assert "boom" in caplog.text
    caplog.clear()


async def test_an_event_that_no_decision_can_take_is_dropped_alone(runtime, puppet, published):
    worker = await runtime.create_worker()
    await asyncio.gather(
        puppet.say(worker.worker_id, TextDelta("a")),
        puppet.say(worker.worker_id, SystemItem([1])),
        puppet.say(worker.worker_id, TextDone("ab")),
    )
    events = await published.until(lambda events: "text_done" in names(events))
    assert names(events) == ["text_delta", "text_done"]


async def test_a_text_without_an_end_is_bounded(faulty, puppet):
    async with Runtime(faulty, puppet, limits=Limits(max_open_text=10)) as runtime:
        worker = await runtime.create_worker()
        await puppet.say(worker.worker_id, TextDelta("12345"), TextDelta("12345"), TextDone("1234512345"))
        await puppet.say(worker.worker_id, TextDelta("1234567890"))
        with pytest.raises(ValueError, match="text_done"):
            await puppet.say(worker.worker_id, TextDelta("1"))


@pytest.mark.parametrize(
    "end", [ThinkingDone("12345"), ToolCallDone("other", "look", "{}"), ToolResult("other", "", is_error=False)]
)
async def test_the_end_of_something_else_does_not_make_room_for_a_text(faulty, puppet, end):
    async with Runtime(faulty, puppet, limits=Limits(max_open_text=10)) as runtime:
        worker = await runtime.create_worker()
        await puppet.say(worker.worker_id, TextDelta("1234567890"), end)
        with pytest.raises(ValueError, match="max_open_text"):
            await puppet.say(worker.worker_id, TextDelta("1"))


@pytest.mark.parametrize(
    "end", [ToolCallDone("t", "look", "[12345678]"), ToolResult("t", "seen", is_error=False), RunEnd("finished")]
)
async def test_the_arguments_of_a_tool_call_without_an_end_are_bounded(faulty, puppet, end):
    async with Runtime(faulty, puppet, limits=Limits(max_open_text=10)) as runtime:
        worker = await runtime.create_worker()
        await puppet.say(worker.worker_id, ToolCallStart("t", "look"), ToolCallArgsDelta("t", "[12345678]"), end)
        await puppet.say(worker.worker_id, ToolCallStart("u", "look"), ToolCallArgsDelta("u", "[1234"))
        await puppet.say(worker.worker_id, TextDelta("12345"))
        with pytest.raises(ValueError, match="tool_call_done"):
            await puppet.say(worker.worker_id, ToolCallArgsDelta("u", "5"))


async def test_workers_are_bounded(faulty, puppet):
    async with Runtime(faulty, puppet, limits=Limits(max_workers=2)) as runtime:
        outcomes = await asyncio.gather(*(runtime.create_worker() for _ in range(4)), return_exceptions=True)
        assert [getattr(outcome, "code", "created") for outcome in outcomes].count("created") == 2
        assert runtime.summary().worker_count == 2


async def test_a_worker_that_is_still_being_spawned_counts_once(faulty, puppet):
    async with Runtime(faulty, puppet, limits=Limits(max_workers=2)) as runtime:
        puppet.gate.clear()
        creating = [asyncio.ensure_future(runtime.create_worker())]
        await until(lambda: "spawn" in puppet.told)
        creating.append(asyncio.ensure_future(runtime.create_worker()))
        await until(lambda: puppet.told.count("spawn") == 2 or creating[1].done())
        puppet.gate.set()
        assert [worker.worker_id for worker in await asyncio.gather(*creating)] == [
            "worker-00000001",
            "worker-00000002",
        ]


def bundle(name):
    unsigned = ConfigBundle(BundleMetadata(name, "", "1", "workspace-1", "2026-06-26T00:00:00Z", Provenance("test")))
    return attrs.evolve(unsigned, metadata=attrs.evolve(unsigned.metadata, digest=bundle_digest(unsigned)))


async def test_bundles_are_bounded_though_they_come_at_once(faulty, puppet):
    async with Runtime(faulty, puppet, limits=Limits(max_bundles=2)) as runtime:
        pushes = (runtime.put_bundle(bundle(name)) for name in "aabcd")
        outcomes = await asyncio.gather(*pushes, return_exceptions=True)
        assert [getattr(outcome, "code", "kept") for outcome in outcomes] == ["kept"] * 3 + ["invalid_request"] * 2
        assert [kept.id for kept in runtime.bundles()] == ["a", "b"]


async def test_a_bundle_whose_caller_went_away_counts_while_it_is_being_stored(slow, puppet):
    async with Runtime(slow, puppet, limits=Limits(max_bundles=1)) as runtime:
        slow.may.clear()
        pushing = asyncio.ensure_future(runtime.put_bundle(bundle("a")))
        await asyncio.sleep(0)
        pushing.cancel()
        await asyncio.wait([pushing])
        late = asyncio.ensure_future(runtime.put_bundle(bundle("b")))
        await asyncio.sleep(0)
        slow.may.set()
        with pytest.raises(InvalidRequest, match="max_bundles"):
            await late
        await until(runtime.bundles)
        assert [kept.id for kept in runtime.bundles()] == ["a"]


async def test_a_bundle_that_could_not_be_stored_does_not_count(faulty, puppet):
    async with Runtime(faulty, puppet, limits=Limits(max_bundles=1)) as runtime:
        faulty.fault = FULL
        with pytest.raises(StoreFull):
            await runtime.put_bundle(bundle("a"))
        faulty.fault = None
        await runtime.put_bundle(bundle("b"))
        assert [kept.id for kept in runtime.bundles()] == ["b"]


async def test_a_bundle_that_nobody_waits_for_any_more_fails_without_a_word(slow, puppet):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with Runtime(slow, puppet) as runtime:
        slow.fault = FULL
        slow.may.clear()
        pushing = asyncio.ensure_future(runtime.put_bundle(bundle("a")))
        await until(lambda: slow.tried)
        pushing.cancel()
        await asyncio.wait([pushing])
        del pushing
        slow.may.set()
        slow.fault = None
        await runtime.put_bundle(bundle("b"))
    gc.collect()
    assert complaints == []


async def test_a_close_that_was_given_up_can_be_finished_and_harms_nobody(faulty, puppet):
    runtime = Runtime(faulty, puppet)
    await runtime.start()
    worker = await runtime.create_worker()
    puppet.gate.clear()
    stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
    await until(lambda: "stop" in puppet.told)
    closing = asyncio.ensure_future(runtime.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert not stopping.done()
    puppet.gate.set()
    await runtime.close()
    assert (await stopping).status == "stopped"
    assert puppet.told[-1] == "close"


async def test_a_cancel_hurries_a_stop_that_takes_its_time(runtime, puppet, monkeypatch):
    worker = await runtime.create_worker()
    puppet.gate.clear()

    async def cancel(self, worker_id, reason):
        self.told.append("cancel")
        self.gate.set()
        return BackendAnswer("accepted")

    monkeypatch.setattr(type(puppet), "cancel", cancel)
    stopping = asyncio.ensure_future(runtime.stop_worker(worker.worker_ref))
    await until(lambda: "stop" in puppet.told)
    assert await runtime.cancel_worker(worker.worker_ref) == await stopping


async def test_before_its_start_a_runtime_says_that_it_is_stopped(faulty, puppet):
    runtime = Runtime(faulty, puppet)
    for ask in (runtime.summary, lambda: runtime.ref("worker-00000001"), lambda: runtime.head):
        with pytest.raises(RuntimeStopped):
            ask()
    with pytest.raises(RuntimeStopped):
        await runtime.create_worker(CreateWorkerRequest())
    async with runtime:
        with pytest.raises(RuntimeStopped):
            await runtime.start()
