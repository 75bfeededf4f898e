"""Workers that are brought back, after a restart of the Runtime or the loss of their program."""

import asyncio

import pytest

from runtimed.core import BackendAnswer, Runtime
from runtimed.core.limits import Limits
from runtimed.errors import InvalidRequest, RuntimeStopped, StoreFull, WorkerExecutionUnavailable, WorkerNotFound
from runtimed.model.event import TextDelta, TextDone
from runtimed.model.interaction import WorkerInput

HELLO = WorkerInput("user", "hello")


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def left(store, puppet):
    """A Worker of an earlier life, which was told something and has answered."""
    async with Runtime(store, puppet) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        await puppet.say(worker.worker_id, TextDone("hi"))
        await puppet.finish(worker.worker_id)
    puppet.told.clear()
    puppet.histories.clear()
    puppet.running.clear()
    return worker


async def test_a_restored_worker_is_spawned_with_its_transcript_and_takes_input(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        assert runtime.worker(left.worker_ref).execution.run_state == "unconnected"
        worker = await runtime.restore_worker(left.worker_ref)
        assert (worker.execution.backend, worker.execution.run_state) == ("connected", "idle")
        (history,) = puppet.histories
        assert [(entry.role, entry.content) for entry in history] == [("user", "hello"), ("assistant", "hi")]
        await runtime.send_input(left.worker_ref, HELLO)
        assert puppet.told == ["spawn", "dispatch hello", "start"]


async def test_a_new_worker_is_spawned_without_a_history(runtime, puppet):
    await runtime.create_worker()
    assert puppet.histories == [None]


async def test_a_new_worker_is_listed_before_it_is_spawned(runtime, puppet, monkeypatch):
    listed = []

    async def spawn(_puppet, spawn, _sink):
        listed.append([worker.worker_ref.worker_id for worker in runtime.workers()] == [spawn.worker_id])
        return BackendAnswer("accepted")

    monkeypatch.setattr(type(puppet), "spawn", spawn)

    await runtime.create_worker()

    assert listed == [True]


async def test_restoring_a_connected_worker_changes_nothing(runtime, puppet):
    worker = await runtime.create_worker()
    before = runtime.worker(worker.worker_ref)
    assert await runtime.restore_worker(worker.worker_ref) == before
    assert puppet.told == ["spawn"]


async def test_the_next_input_brings_a_worker_back(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        assert puppet.told == []
        await runtime.send_input(left.worker_ref, HELLO)
        assert puppet.told == ["spawn", "dispatch hello", "start"]


async def test_those_who_restore_at_the_same_time_share_one_attempt(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        await asyncio.gather(
            *(runtime.restore_worker(left.worker_ref) for _ in range(5)), runtime.send_input(left.worker_ref, HELLO)
        )
        assert puppet.told.count("spawn") == 1


async def test_a_restore_that_fails_says_why_and_may_be_tried_again(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        puppet.spawned = BackendAnswer("errored", "the agent is not installed")
        with pytest.raises(WorkerExecutionUnavailable, match="not installed; restore tries again"):
            await runtime.restore_worker(left.worker_ref)
        result = runtime.worker(left.worker_ref).execution.last_result
        assert (result.operation, result.outcome, result.message) == (
            "spawn",
            "errored",
            "the agent is not installed",
        )
        with pytest.raises(WorkerExecutionUnavailable, match="not installed; restore tries again"):
            await runtime.send_input(left.worker_ref, HELLO)
        assert puppet.told == ["spawn"]
        puppet.spawned = BackendAnswer("accepted")
        assert (await runtime.restore_worker(left.worker_ref)).execution.run_state == "idle"


async def test_a_worker_whose_spawn_was_refused_can_be_restored(runtime, puppet):
    puppet.spawned = BackendAnswer("rejected", "no such profile")
    worker = await runtime.create_worker()
    puppet.spawned = BackendAnswer("accepted")
    assert (await runtime.restore_worker(worker.worker_ref)).execution.backend == "connected"


async def test_what_a_lost_program_still_says_is_not_taken_for_its_successor(runtime, puppet, published):
    worker = await runtime.create_worker()
    old = puppet.sinks[worker.worker_id]
    await old.lose("exit", "gone")
    await runtime.restore_worker(worker.worker_ref)
    said = len(published.events)
    await old.emit(TextDelta("a ghost"))
    await old.lose("exit", "gone again")
    assert len(published.events) == said
    assert runtime.worker(worker.worker_ref).execution.backend == "connected"


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
async def test_a_worker_that_is_over_is_not_restored(store, puppet, left, way):
    async with Runtime(store, puppet) as runtime:
        await getattr(runtime, way)(left.worker_ref)
        with pytest.raises(InvalidRequest):
            await runtime.restore_worker(left.worker_ref)
        assert "spawn" not in puppet.told


async def test_a_stop_amid_a_restore_ends_what_was_spawned(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        puppet.gate.clear()
        restoring = asyncio.create_task(runtime.restore_worker(left.worker_ref))
        await until(lambda: "spawn" in puppet.told)
        stopping = asyncio.create_task(runtime.stop_worker(left.worker_ref))
        await asyncio.sleep(0)
        puppet.gate.set()
        await asyncio.gather(restoring, stopping, return_exceptions=True)
        assert puppet.told == ["spawn", "cancel", "stop"]
        worker = runtime.worker(left.worker_ref)
        assert (worker.status, worker.execution.run_state) == ("stopped", "stopped")


async def test_a_restore_amid_a_stop_is_refused(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        puppet.gate.clear()
        stopping = asyncio.create_task(runtime.stop_worker(left.worker_ref))
        await until(lambda: "stop" in puppet.told)
        with pytest.raises(InvalidRequest, match="being stopped"):
            await runtime.restore_worker(left.worker_ref)
        puppet.gate.set()
        await stopping
        assert "spawn" not in puppet.told


async def test_a_deleted_worker_is_not_restored(store, puppet, left):
    async with Runtime(store, puppet) as runtime:
        await runtime.stop_worker(left.worker_ref)
        await runtime.delete_worker(left.worker_ref)
        with pytest.raises(WorkerNotFound):
            await runtime.restore_worker(left.worker_ref)


async def test_a_close_amid_a_restore_waits_for_it_and_leaves_nothing(store, puppet, left):
    runtime = Runtime(store, puppet)
    await runtime.start()
    puppet.gate.clear()
    restoring = asyncio.create_task(runtime.restore_worker(left.worker_ref))
    await until(lambda: "spawn" in puppet.told)
    closing = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeStopped):
        await runtime.restore_worker(left.worker_ref)
    puppet.gate.set()
    await asyncio.gather(restoring, closing)
    assert puppet.told == ["spawn", "close"]


async def test_a_close_does_not_cancel_what_the_backend_has_started(slow, puppet):
    runtime = Runtime(slow, puppet)
    await runtime.start()
    puppet.gate.clear()
    creating = asyncio.create_task(runtime.create_worker())
    await until(lambda: "spawn" in puppet.told)
    slow.may.clear()
    puppet.gate.set()
    await until(lambda: puppet.sinks)
    closing = asyncio.create_task(runtime.close())
    for _ in range(20):
        await asyncio.sleep(0)

    slow.may.set()
    await asyncio.gather(creating, closing)

    assert puppet.told == ["spawn", "close"]


@pytest.fixture
def unready(puppet, monkeypatch):
    """What is spawned is not ready until it is ended."""

    async def cancel(worker_id, reason):
        puppet.gate.set()
        return BackendAnswer("accepted")

    puppet.gate.clear()
    puppet.spawned = BackendAnswer("errored", "it was ended before it was ready")
    monkeypatch.setattr(type(puppet), "cancel", staticmethod(cancel))
    return puppet


@pytest.mark.parametrize("way", ["stop_worker", "cancel_worker"])
@pytest.mark.parametrize("life", ["first", "second"])
async def test_an_end_does_not_wait_for_what_is_not_ready(store, left, unready, way, life):
    async with Runtime(store, unready) as runtime:
        spawning = runtime.create_worker() if life == "first" else runtime.restore_worker(left.worker_ref)
        spawned = asyncio.create_task(spawning)
        await until(lambda: "spawn" in unready.told)
        ref = runtime.workers()[-1].worker_ref
        async with asyncio.timeout(10):
            await getattr(runtime, way)(ref)
        await asyncio.gather(spawned, return_exceptions=True)
        assert runtime.worker(ref).execution.run_state == "stopped"


async def test_a_close_does_not_wait_for_what_is_not_ready(store, left, unready):
    runtime = Runtime(store, unready)
    await runtime.start()
    restoring = asyncio.create_task(runtime.restore_worker(left.worker_ref))
    await until(lambda: "spawn" in unready.told)
    async with asyncio.timeout(10):
        await runtime.close()
    await asyncio.gather(restoring, return_exceptions=True)


async def test_nothing_is_spawned_for_a_worker_whose_creation_the_close_overtakes(slow, puppet):
    runtime = Runtime(slow, puppet)
    await runtime.start()
    slow.may.clear()
    creating = asyncio.create_task(runtime.create_worker())
    await asyncio.sleep(0)
    closing = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    slow.may.set()
    assert (await creating).execution.run_state == "unconnected"
    await closing
    assert "spawn" not in puppet.told


async def test_an_input_behind_a_restore_that_the_close_overtakes_is_refused(store, puppet, left):
    runtime = Runtime(store, puppet)
    await runtime.start()
    puppet.gate.clear()
    sending = asyncio.create_task(runtime.send_input(left.worker_ref, HELLO))
    await until(lambda: "spawn" in puppet.told)
    closing = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    puppet.gate.set()
    with pytest.raises(RuntimeStopped):
        await sending
    await closing
    assert "dispatch hello" not in puppet.told


@pytest.mark.parametrize(("restore", "spawned"), [("eager", 3), ("lazy", 0), ("never", 0)])
async def test_at_the_start_are_restored_whom_the_policy_names(store, puppet, restore, spawned):
    async with Runtime(store, puppet) as runtime:
        workers = [await runtime.create_worker() for _ in range(4)]
        await runtime.stop_worker(workers[0].worker_ref)
    puppet.told.clear()
    async with Runtime(store, puppet, restore=restore) as runtime:
        await until(lambda: puppet.told.count("spawn") == spawned)
        await until(lambda: sum(w.execution.backend == "connected" for w in runtime.workers()) == spawned)
    assert puppet.told.count("spawn") == spawned


async def test_no_more_are_restored_at_once_at_the_start_than_may_be(store, puppet):
    async with Runtime(store, puppet) as runtime:
        for _ in range(5):
            await runtime.create_worker()
    puppet.told.clear()
    puppet.gate.clear()
    async with Runtime(store, puppet, restore="eager", limits=Limits(max_restores=2)) as runtime:
        await until(lambda: puppet.told.count("spawn") == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert puppet.told.count("spawn") == 2
        puppet.gate.set()
        await until(lambda: all(w.execution.backend == "connected" for w in runtime.workers()))


async def test_without_a_backend_nothing_can_be_restored(store, left):
    async with Runtime(store) as runtime:
        with pytest.raises(WorkerExecutionUnavailable):
            await runtime.restore_worker(left.worker_ref)


async def test_a_worker_whose_spawn_a_full_store_has_not_taken_is_not_spawned_again(faulty, puppet):
    async with Runtime(faulty, puppet) as runtime:
        worker = await runtime.create_worker()
    puppet.told.clear()
    async with Runtime(faulty, puppet) as runtime:
        faulty.fault = StoreFull("no room")
        for _ in range(2):
            with pytest.raises(StoreFull):
                await runtime.restore_worker(worker.worker_ref)
        with pytest.raises(StoreFull):
            await runtime.send_input(worker.worker_ref, HELLO)
        assert puppet.told == ["spawn"]
        faulty.fault = None
        await runtime.send_input(worker.worker_ref, HELLO)
        assert puppet.told == ["spawn", "dispatch hello", "start"]


async def test_a_worker_whose_end_a_full_store_has_not_taken_is_not_brought_back(faulty, puppet):
    async with Runtime(faulty, puppet) as runtime:
        worker = await runtime.create_worker()
        faulty.fault = StoreFull("no room")
        with pytest.raises(StoreFull):
            await runtime.stop_worker(worker.worker_ref)
        with pytest.raises(StoreFull):
            await runtime.restore_worker(worker.worker_ref)
        faulty.fault = None
        with pytest.raises(InvalidRequest):
            await runtime.restore_worker(worker.worker_ref)
        assert puppet.told == ["spawn", "stop"]
        assert runtime.worker(worker.worker_ref).execution.run_state == "stopped"
