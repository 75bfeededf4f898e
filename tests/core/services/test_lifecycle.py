"""Workers that are brought back, after a restart of the Runtime or the loss of their program."""

import asyncio
from collections.abc import Callable

import pytest

from runtimed.core import BackendAnswer, EventSink, Runtime, Spawn, Store
from runtimed.core.limits import Limits
from runtimed.core.services.lifecycle import Restore
from runtimed.errors import InvalidRequest, RuntimeStopped, StoreFull, WorkerExecutionUnavailable, WorkerNotFound
from runtimed.model.event import TextDelta, TextDone
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import WorkerDetail
from runtimed.store.memory import MemoryStore
from tests.core.conftest import FailingStore, FakeBackend, RecordingSubscriber, SlowStore, result_of

HELLO = WorkerInput("user", "hello")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def left(store: Store, backend: FakeBackend) -> WorkerDetail:
    """A Worker of an earlier life, which was told something and has answered."""
    async with Runtime(store, backend) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await backend.say(worker.worker_id, TextDone("hi"))
        await backend.finish(worker.worker_id)
    backend.calls.clear()
    backend.histories.clear()
    backend.running.clear()
    return worker


async def test_a_restored_worker_is_spawned_with_its_transcript_and_takes_input(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    async with Runtime(store, backend) as runtime:
        assert runtime.worker(left.worker_ref).execution.run_state == "unconnected"
        worker = await runtime.restore_worker(left.worker_ref)
        assert (worker.execution.backend, worker.execution.run_state) == ("connected", "idle")
        (history,) = backend.histories
        assert history is not None
        assert [(entry.role, entry.content) for entry in history] == [("user", "hello"), ("assistant", "hi")]
        await runtime.send_input(left.worker_ref, HELLO)
        assert backend.calls == ["spawn", "dispatch hello", "start"]


async def test_a_new_worker_is_spawned_without_a_history(runtime: Runtime, backend: FakeBackend) -> None:
    await runtime.create_worker()
    assert backend.histories == [None]


async def test_a_new_worker_is_listed_before_it_is_spawned(
    runtime: Runtime, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[bool] = []

    async def spawn(_backend: FakeBackend, spawn: Spawn, _sink: EventSink) -> BackendAnswer:
        listed.append([worker.worker_ref.worker_id for worker in runtime.workers()] == [spawn.worker_id])
        return BackendAnswer("accepted")

    monkeypatch.setattr(type(backend), "spawn", spawn)

    await runtime.create_worker()

    assert listed == [True]


async def test_restoring_a_connected_worker_changes_nothing(runtime: Runtime, backend: FakeBackend) -> None:
    worker = await runtime.create_worker()
    before = runtime.worker(worker.worker_ref)
    assert await runtime.restore_worker(worker.worker_ref) == before
    assert backend.calls == ["spawn"]


async def test_the_next_input_brings_a_worker_back(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    async with Runtime(store, backend) as runtime:
        assert backend.calls == []
        await runtime.send_input(left.worker_ref, HELLO)
        assert backend.calls == ["spawn", "dispatch hello", "start"]


async def test_restores_at_the_same_time_share_one_attempt(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    async with Runtime(store, backend) as runtime:
        await asyncio.gather(
            *(runtime.restore_worker(left.worker_ref) for _ in range(5)), runtime.send_input(left.worker_ref, HELLO)
        )
        assert backend.calls.count("spawn") == 1


async def test_a_restore_that_fails_says_why_and_may_be_tried_again(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    async with Runtime(store, backend) as runtime:
        backend.spawned = BackendAnswer("errored", "the agent is not installed")
        with pytest.raises(WorkerExecutionUnavailable, match="not installed; restore tries again"):
            await runtime.restore_worker(left.worker_ref)
        result = result_of(runtime.worker(left.worker_ref))
        assert (result.operation, result.outcome, result.message) == (
            "spawn",
            "errored",
            "the agent is not installed",
        )
        with pytest.raises(WorkerExecutionUnavailable, match="not installed; restore tries again"):
            await runtime.send_input(left.worker_ref, HELLO)
        assert backend.calls == ["spawn"]
        backend.spawned = BackendAnswer("accepted")
        assert (await runtime.restore_worker(left.worker_ref)).execution.run_state == "idle"


async def test_a_worker_whose_spawn_was_refused_can_be_restored(runtime: Runtime, backend: FakeBackend) -> None:
    backend.spawned = BackendAnswer("rejected", "no such profile")
    worker = await runtime.create_worker()
    backend.spawned = BackendAnswer("accepted")
    assert (await runtime.restore_worker(worker.worker_ref)).execution.backend == "connected"


async def test_late_output_of_a_lost_program_is_not_taken_for_its_successors(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    old = backend.sinks[worker.worker_id]
    await old.lose("exit", "gone")
    await runtime.restore_worker(worker.worker_ref)
    said = len(published.events)
    await old.emit(TextDelta("a ghost"))
    await old.lose("exit", "gone again")
    assert len(published.events) == said
    assert runtime.worker(worker.worker_ref).execution.backend == "connected"


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
async def test_a_stopped_worker_is_not_restored(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail, way: str
) -> None:
    async with Runtime(store, backend) as runtime:
        await getattr(runtime, way)(left.worker_ref)
        with pytest.raises(InvalidRequest):
            await runtime.restore_worker(left.worker_ref)
        assert "spawn" not in backend.calls


async def test_a_stop_during_a_restore_ends_what_was_spawned(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    async with Runtime(store, backend) as runtime:
        backend.gate.clear()
        restoring = asyncio.create_task(runtime.restore_worker(left.worker_ref))
        await until(lambda: "spawn" in backend.calls)
        stopping = asyncio.create_task(runtime.stop_worker(left.worker_ref))
        await asyncio.sleep(0)
        backend.gate.set()
        await asyncio.gather(restoring, stopping, return_exceptions=True)
        assert backend.calls == ["spawn", "cancel", "stop"]
        worker = runtime.worker(left.worker_ref)
        assert (worker.status, worker.execution.run_state) == ("stopped", "stopped")


async def test_a_restore_during_a_stop_is_refused(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    async with Runtime(store, backend) as runtime:
        backend.gate.clear()
        stopping = asyncio.create_task(runtime.stop_worker(left.worker_ref))
        await until(lambda: "stop" in backend.calls)
        with pytest.raises(InvalidRequest, match="being stopped"):
            await runtime.restore_worker(left.worker_ref)
        backend.gate.set()
        await stopping
        assert "spawn" not in backend.calls


async def test_a_deleted_worker_is_not_restored(store: MemoryStore, backend: FakeBackend, left: WorkerDetail) -> None:
    async with Runtime(store, backend) as runtime:
        await runtime.stop_worker(left.worker_ref)
        await runtime.delete_worker(left.worker_ref)
        with pytest.raises(WorkerNotFound):
            await runtime.restore_worker(left.worker_ref)


async def test_a_close_during_a_restore_waits_for_it_and_leaves_nothing(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    runtime = Runtime(store, backend)
    await runtime.start()
    backend.gate.clear()
    restoring = asyncio.create_task(runtime.restore_worker(left.worker_ref))
    await until(lambda: "spawn" in backend.calls)
    closing = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeStopped):
        await runtime.restore_worker(left.worker_ref)
    backend.gate.set()
    await asyncio.gather(restoring, closing)
    assert backend.calls == ["spawn", "close"]


async def test_a_close_does_not_cancel_what_the_backend_has_started(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    runtime = Runtime(slow_store, backend)
    await runtime.start()
    backend.gate.clear()
    creating = asyncio.create_task(runtime.create_worker())
    await until(lambda: "spawn" in backend.calls)
    slow_store.may.clear()
    backend.gate.set()
    await until(lambda: backend.sinks)
    closing = asyncio.create_task(runtime.close())
    for _ in range(20):
        await asyncio.sleep(0)

    slow_store.may.set()
    await asyncio.gather(creating, closing)

    assert backend.calls == ["spawn", "close"]


@pytest.fixture
def unready(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """What is spawned is not ready until it is ended."""

    async def cancel(worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        backend.gate.set()
        return BackendAnswer("accepted")

    backend.gate.clear()
    backend.spawned = BackendAnswer("errored", "it was ended before it was ready")
    monkeypatch.setattr(type(backend), "cancel", staticmethod(cancel))
    return backend


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
@pytest.mark.parametrize("life", ["first", "second"])
async def test_a_stop_does_not_wait_for_a_spawn_that_is_not_ready(
    store: MemoryStore, left: WorkerDetail, unready: FakeBackend, way: str, life: str
) -> None:
    async with Runtime(store, unready) as runtime:
        spawning = runtime.create_worker() if life == "first" else runtime.restore_worker(left.worker_ref)
        spawned = asyncio.create_task(spawning)
        await until(lambda: "spawn" in unready.calls)
        ref = runtime.workers()[-1].worker_ref
        async with asyncio.timeout(10):
            await getattr(runtime, way)(ref)
        await asyncio.gather(spawned, return_exceptions=True)
        assert runtime.worker(ref).execution.run_state == "stopped"


async def test_a_close_does_not_wait_for_a_spawn_that_is_not_ready(
    store: MemoryStore, left: WorkerDetail, unready: FakeBackend
) -> None:
    runtime = Runtime(store, unready)
    await runtime.start()
    restoring = asyncio.create_task(runtime.restore_worker(left.worker_ref))
    await until(lambda: "spawn" in unready.calls)
    async with asyncio.timeout(10):
        await runtime.close()
    await asyncio.gather(restoring, return_exceptions=True)


async def test_nothing_is_spawned_for_a_worker_whose_creation_the_close_overtakes(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    runtime = Runtime(slow_store, backend)
    await runtime.start()
    slow_store.may.clear()
    creating = asyncio.create_task(runtime.create_worker())
    await asyncio.sleep(0)
    closing = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    slow_store.may.set()
    assert (await creating).execution.run_state == "unconnected"
    await closing
    assert "spawn" not in backend.calls


async def test_an_input_that_waits_for_a_restore_is_refused_by_a_close(
    store: MemoryStore, backend: FakeBackend, left: WorkerDetail
) -> None:
    runtime = Runtime(store, backend)
    await runtime.start()
    backend.gate.clear()
    sending = asyncio.create_task(runtime.send_input(left.worker_ref, HELLO))
    await until(lambda: "spawn" in backend.calls)
    closing = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    backend.gate.set()
    with pytest.raises(RuntimeStopped):
        await sending
    await closing
    assert "dispatch hello" not in backend.calls


@pytest.mark.parametrize(("restore", "spawned"), [("eager", 3), ("lazy", 0), ("never", 0)])
async def test_the_start_restores_the_workers_that_the_policy_names(
    store: MemoryStore, backend: FakeBackend, restore: Restore, spawned: int
) -> None:
    async with Runtime(store, backend) as runtime:
        workers = [await runtime.create_worker() for _ in range(4)]
        await runtime.stop_worker(workers[0].worker_ref)
    backend.calls.clear()
    async with Runtime(store, backend, restore=restore) as runtime:
        await until(lambda: backend.calls.count("spawn") == spawned)
        await until(lambda: sum(w.execution.backend == "connected" for w in runtime.workers()) == spawned)
    assert backend.calls.count("spawn") == spawned


async def test_the_start_restores_only_a_limited_number_of_workers_at_once(
    store: MemoryStore, backend: FakeBackend
) -> None:
    async with Runtime(store, backend) as runtime:
        for _ in range(5):
            await runtime.create_worker()
    backend.calls.clear()
    backend.gate.clear()
    async with Runtime(store, backend, restore="eager", limits=Limits(max_restores=2)) as runtime:
        await until(lambda: backend.calls.count("spawn") == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert backend.calls.count("spawn") == 2
        backend.gate.set()
        await until(lambda: all(w.execution.backend == "connected" for w in runtime.workers()))


async def test_without_a_backend_nothing_can_be_restored(store: MemoryStore, left: WorkerDetail) -> None:
    async with Runtime(store) as runtime:
        with pytest.raises(WorkerExecutionUnavailable):
            await runtime.restore_worker(left.worker_ref)


async def test_a_worker_whose_spawn_a_full_store_refused_is_not_spawned_again(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
    backend.calls.clear()
    async with Runtime(failing_store, backend) as runtime:
        failing_store.fault = StoreFull("no room")
        for _ in range(2):
            with pytest.raises(StoreFull):
                await runtime.restore_worker(worker.worker_ref)
        with pytest.raises(StoreFull):
            await runtime.send_input(worker.worker_ref, HELLO)
        assert backend.calls == ["spawn"]
        failing_store.fault = None
        await runtime.send_input(worker.worker_ref, HELLO)
        assert backend.calls == ["spawn", "dispatch hello", "start"]


async def test_a_worker_whose_stop_a_full_store_refused_is_not_restored(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        worker = await runtime.create_worker()
        failing_store.fault = StoreFull("no room")
        with pytest.raises(StoreFull):
            await runtime.stop_worker(worker.worker_ref)
        with pytest.raises(StoreFull):
            await runtime.restore_worker(worker.worker_ref)
        failing_store.fault = None
        with pytest.raises(InvalidRequest):
            await runtime.restore_worker(worker.worker_ref)
        assert backend.calls == ["spawn", "stop"]
        assert runtime.worker(worker.worker_ref).execution.run_state == "stopped"
