"""A Runtime that is drained takes no new work, and its runs go on."""

import asyncio

import pytest

from runtimed.core import BackendAnswer, Runtime
from runtimed.errors import RuntimedError, RuntimeStopped, Unavailable
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import WorkerDetail
from runtimed.store.memory import MemoryStore
from tests.core.conftest import FakeBackend, run_ready_callbacks

HELLO = WorkerInput("user", "hello")
LONG_S = 3600.0


@pytest.fixture
async def busy(runtime: Runtime, backend: FakeBackend) -> WorkerDetail:
    """A Worker amid a run, in a Runtime that waits for runs."""
    runtime.drain_s = LONG_S
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    return worker


async def test_new_work_is_refused_and_the_answer_says_when_to_retry(runtime: Runtime, busy: WorkerDetail) -> None:
    runtime.drain()

    for work in (
        runtime.create_worker(),
        runtime.send_input(busy.worker_ref, WorkerInput("user", "more", "queue")),
        runtime.restore_worker(busy.worker_ref),
    ):
        with pytest.raises(Unavailable, match="draining") as refused:
            await work
        assert refused.value.retry_after_s > 0
    assert len(runtime.workers()) == 1
    assert runtime.worker(busy.worker_ref).queued_inputs in (None, 0)


async def test_a_drain_is_over_once_the_last_run_has_ended(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    other = await runtime.create_worker()
    await runtime.send_input(other.worker_ref, HELLO)

    assert runtime.drain().runs == 2
    over = asyncio.ensure_future(runtime.drained())
    await backend.finish(busy.worker_id)
    await run_ready_callbacks()
    assert not over.done()
    assert runtime.drain().runs == 1
    await backend.finish(other.worker_id)

    async with asyncio.timeout(10):
        await over


async def test_interrupts_and_stops_go_on_and_end_runs(
    runtime: Runtime, backend: FakeBackend, busy: WorkerDetail
) -> None:
    other = await runtime.create_worker()
    await runtime.send_input(other.worker_ref, HELLO)
    runtime.drain()

    await runtime.interrupt_worker(busy.worker_ref)
    await runtime.stop_worker(other.worker_ref)

    async with asyncio.timeout(10):
        await runtime.drained()
    assert runtime.worker(other.worker_ref).status == "stopped"


async def test_a_run_that_outlasts_the_time_is_waited_for_no_longer(runtime: Runtime, busy: WorkerDetail) -> None:
    runtime.drain_s = 0.01
    runtime.drain()

    async with asyncio.timeout(10):
        await runtime.drained()

    assert runtime.worker(busy.worker_ref).execution.run_state == "busy"


async def test_a_repeat_keeps_the_deadline(runtime: Runtime, busy: WorkerDetail) -> None:
    first = runtime.drain()
    runtime.drain_s = 2 * LONG_S

    assert runtime.drain() == first


async def test_a_queued_input_stays_queued(runtime: Runtime, backend: FakeBackend, busy: WorkerDetail) -> None:
    await runtime.send_input(busy.worker_ref, WorkerInput("user", "second", "queue"))
    runtime.drain()

    await backend.finish(busy.worker_id)
    async with asyncio.timeout(10):
        await runtime.drained()

    await run_ready_callbacks()
    assert "dispatch second" not in backend.calls
    assert runtime.worker(busy.worker_ref).queued_inputs == 1


async def test_an_input_that_was_admitted_before_is_given_and_its_run_waited_for(
    runtime: Runtime, backend: FakeBackend
) -> None:
    runtime.drain_s = LONG_S
    worker = await runtime.create_worker()
    backend.gate.clear()
    sending = asyncio.ensure_future(runtime.send_input(worker.worker_ref, HELLO))
    await run_ready_callbacks()

    runtime.drain()
    over = asyncio.ensure_future(runtime.drained())
    backend.gate.set()
    await sending
    await run_ready_callbacks()
    assert not over.done()
    await backend.finish(worker.worker_id)

    async with asyncio.timeout(10):
        await over


async def test_a_worker_whose_program_is_lost_is_not_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 0.0)
    backend = FakeBackend(spawned=BackendAnswer("accepted", restart="always"))
    async with Runtime(MemoryStore(), backend, drain_s=LONG_S) as runtime:
        worker = await runtime.create_worker()
        await runtime.send_input(worker.worker_ref, HELLO)
        runtime.drain()

        await backend.sinks[worker.worker_id].lose("exit", "the program is gone")
        async with asyncio.timeout(10):
            await runtime.drained()

        await run_ready_callbacks()
        assert backend.calls.count("spawn") == 1


async def test_a_drained_runtime_closes_as_ever() -> None:
    runtime = Runtime(MemoryStore(), FakeBackend())
    await runtime.start()
    runtime.drain()
    await runtime.close()

    with pytest.raises(RuntimeStopped):
        runtime.drain()
    with pytest.raises(RuntimedError, match="stopped"):
        await runtime.create_worker()
