"""What follows the loss of what runs a Worker, by the policy that its backend has told."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from runtimed.core import BackendAnswer, EventSink, Runtime, Spawn
from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.services.restarts import FIRST_DELAY_S, Restarts
from runtimed.errors import WorkerExecutionUnavailable
from runtimed.model.execution import LossReason, RestartPolicy
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import WorkerDetail
from tests.core.conftest import FakeBackend, run_ready_callbacks

HELLO = WorkerInput("user", "hello")
LATER = WorkerInput("user", "later", when_busy="queue")


SetPolicy = Callable[[RestartPolicy], None]


@pytest.fixture
def policy(backend: FakeBackend) -> SetPolicy:
    """Sets the policy of the Workers that are spawned from now on."""

    def choose(restart: RestartPolicy) -> None:
        backend.spawned = BackendAnswer("accepted", restart=restart)

    return choose


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 0.05)


async def lose(backend: FakeBackend, worker: WorkerDetail, reason: LossReason = "exit") -> None:
    await backend.sinks[worker.worker_id].lose(reason, "the program is gone")


async def spawns(backend: FakeBackend, count: int) -> None:
    async with asyncio.timeout(10):
        while backend.calls.count("spawn") < count:
            await asyncio.sleep(0.01)


async def connected(runtime: Runtime, worker: WorkerDetail) -> None:
    async with asyncio.timeout(10):
        while runtime.worker(worker.worker_ref).execution.backend != "connected":
            await asyncio.sleep(0.01)


async def test_the_next_input_restores_a_lost_worker(
    runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("next_input")
    worker = await runtime.create_worker()
    await lose(backend, worker)
    assert runtime.worker(worker.worker_ref).execution.run_state == "errored"

    await runtime.send_input(worker.worker_ref, HELLO)

    assert backend.calls[-3:] == ["spawn", "dispatch hello", "start"]
    assert backend.histories[-1] == ()


async def test_the_next_input_restores_a_worker_that_exceeded_a_limit(
    runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("next_input")
    worker = await runtime.create_worker()
    await lose(backend, worker, "oom")

    await runtime.send_input(worker.worker_ref, HELLO)

    assert backend.calls.count("spawn") == 2


async def test_an_input_fails_with_the_reason_why_a_lost_worker_could_not_be_restored(
    runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("next_input")
    worker = await runtime.create_worker()
    await lose(backend, worker)
    backend.spawned = BackendAnswer("errored", "no such program")

    with pytest.raises(WorkerExecutionUnavailable, match="no such program"):
        await runtime.send_input(worker.worker_ref, HELLO)

    policy("next_input")
    await runtime.send_input(worker.worker_ref, HELLO)


async def test_the_policy_never_leaves_a_lost_worker_to_an_explicit_restore(
    soon: None, runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("never")
    worker = await runtime.create_worker()
    await lose(backend, worker)

    with pytest.raises(WorkerExecutionUnavailable, match="restore tries again"):
        await runtime.send_input(worker.worker_ref, HELLO)
    restored = await runtime.restore_worker(worker.worker_ref)

    assert restored.execution.run_state == "idle"


async def test_the_policy_always_restarts_a_lost_worker(
    soon: None, runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("always")
    worker = await runtime.create_worker()
    await lose(backend, worker)

    await connected(runtime, worker)

    assert backend.calls == ["spawn", "spawn"]


async def test_the_policy_always_retries_a_spawn_that_fails(
    soon: None, runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("always")
    worker = await runtime.create_worker()
    backend.spawned = BackendAnswer("errored", "not yet")
    await lose(backend, worker)
    await spawns(backend, 3)
    policy("always")
    await connected(runtime, worker)


@pytest.mark.parametrize("reason", ["oom", "processes", "cpu", "disk", "output", "timeout", "silence"])
async def test_the_policy_always_restarts_no_worker_that_exceeded_a_limit(
    soon: None, runtime: Runtime, backend: FakeBackend, policy: SetPolicy, reason: LossReason
) -> None:
    policy("always")
    worker = await runtime.create_worker()
    await lose(backend, worker, reason)
    await asyncio.sleep(0.2)
    assert backend.calls == ["spawn"]
    await runtime.send_input(worker.worker_ref, HELLO)
    assert backend.calls.count("spawn") == 2


async def test_a_queued_input_restores_a_lost_worker(
    soon: None, runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("next_input")
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    await runtime.send_input(worker.worker_ref, LATER)

    await lose(backend, worker)

    async with asyncio.timeout(10):
        while "dispatch later" not in backend.calls:
            await asyncio.sleep(0.01)
    assert backend.calls.count("spawn") == 2


async def test_the_delay_doubles_up_to_its_bound_while_a_restarted_worker_is_lost_again(
    clock: SimpleNamespace,
    runtime: Runtime,
    backend: FakeBackend,
    policy: SetPolicy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 1.0)
    monkeypatch.setattr("runtimed.core.services.restarts.MAX_DELAY_S", 4.0)
    policy("always")
    worker = await runtime.create_worker()
    seen = []

    for delay_s in (1.0, 2.0, 4.0, 4.0):
        await lose(backend, worker)
        for step_s in (delay_s - 0.25, 0.25):
            clock.now += step_s
            await run_ready_callbacks()
            seen.append(runtime.worker(worker.worker_ref).execution.backend)

    assert seen == ["unconnected", "connected"] * 4


async def test_the_delay_doubles_for_each_spawn_that_fails_however_long_it_takes(
    runtime: Runtime, backend: FakeBackend, policy: SetPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 0.05)
    monkeypatch.setattr("runtimed.core.services.restarts.MAX_DELAY_S", 0.2)
    delays: list[float] = []
    plan = Restarts.plan

    def noting(restarts: Restarts, mailbox: Mailbox) -> None:
        plan(restarts, mailbox)
        delays.append(restarts._planned[mailbox.worker.worker_id].delay_s)

    monkeypatch.setattr(Restarts, "plan", noting)
    policy("always")
    worker = await runtime.create_worker()
    backend.spawned = BackendAnswer("errored", "not ready in time")

    async def slow(backend: FakeBackend, _spawn: Spawn, _sink: EventSink) -> BackendAnswer:
        backend.calls.append("spawn")
        await asyncio.sleep(0.3)
        return backend.spawned

    monkeypatch.setattr(FakeBackend, "spawn", slow)
    await lose(backend, worker)
    await spawns(backend, 4)

    assert delays[:3] == [0.05, 0.1, 0.2]


async def test_the_policy_always_restarts_a_worker_that_is_lost_before_its_spawn_was_answered(
    soon: None,
    runtime: Runtime,
    backend: FakeBackend,
    policy: SetPolicy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy("always")
    spawn = FakeBackend.spawn

    async def lost_at_once(backend: FakeBackend, asked: Spawn, sink: EventSink) -> BackendAnswer:
        answer = await spawn(backend, asked, sink)
        if backend.calls.count("spawn") == 1:
            await sink.lose("exit", "gone at once")
        return answer

    monkeypatch.setattr(FakeBackend, "spawn", lost_at_once)

    worker = await runtime.create_worker()

    await connected(runtime, worker)
    assert backend.calls.count("spawn") == 2


async def test_a_loss_reported_after_the_end_of_a_worker_schedules_no_restart(
    soon: None, runtime: Runtime, backend: FakeBackend, policy: SetPolicy
) -> None:
    policy("always")
    worker = await runtime.create_worker()
    await runtime.stop_worker(worker.worker_ref)

    await lose(backend, worker)

    assert not runtime._started.lifecycle._restarts._planned


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_a_worker_that_has_ended_is_not_restarted(
    clock: SimpleNamespace, runtime: Runtime, backend: FakeBackend, policy: SetPolicy, end: str
) -> None:
    policy("always")
    worker = await runtime.create_worker()
    await lose(backend, worker)
    if end == "stop":
        await runtime.stop_worker(worker.worker_ref)
    else:
        await runtime.close()

    clock.now += 2 * FIRST_DELAY_S
    await run_ready_callbacks()

    assert backend.calls.count("spawn") == 1
