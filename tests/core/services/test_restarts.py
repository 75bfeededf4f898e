"""What follows the loss of what runs a Worker, by the policy that its backend has told."""

import asyncio

import pytest

from runtimed.core import BackendAnswer
from runtimed.core.services.restarts import Restarts
from runtimed.errors import WorkerExecutionUnavailable
from runtimed.model.interaction import WorkerInput
from tests.core.conftest import Puppet, turns

HELLO = WorkerInput("user", "hello")
LATER = WorkerInput("user", "later", when_busy="queue")


@pytest.fixture
def policy(puppet):
    """Sets the policy of the Workers that are spawned from now on."""

    def choose(restart):
        puppet.spawned = BackendAnswer("accepted", restart=restart)

    return choose


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 0.05)


async def lose(puppet, worker, reason="exit"):
    await puppet.sinks[worker.worker_id].lose(reason, "the program is gone")


async def spawns(puppet, count):
    async with asyncio.timeout(10):
        while puppet.told.count("spawn") < count:
            await asyncio.sleep(0.01)


async def connected(runtime, worker):
    async with asyncio.timeout(10):
        while runtime.worker(worker.worker_ref).execution.backend != "connected":
            await asyncio.sleep(0.01)


async def test_the_next_input_brings_back_what_was_lost(runtime, puppet, policy):
    policy("next_input")
    worker = await runtime.create_worker()
    await lose(puppet, worker)
    assert runtime.worker(worker.worker_ref).execution.run_state == "errored"

    await runtime.send_input(worker.worker_ref, HELLO)

    assert puppet.told[-3:] == ["spawn", "dispatch hello", "start"]
    assert puppet.histories[-1] == ()


async def test_the_next_input_brings_back_what_has_met_a_limit(runtime, puppet, policy):
    policy("next_input")
    worker = await runtime.create_worker()
    await lose(puppet, worker, "oom")

    await runtime.send_input(worker.worker_ref, HELLO)

    assert puppet.told.count("spawn") == 2


async def test_an_input_says_why_what_was_lost_could_not_be_brought_back(runtime, puppet, policy):
    policy("next_input")
    worker = await runtime.create_worker()
    await lose(puppet, worker)
    puppet.spawned = BackendAnswer("errored", "no such program")

    with pytest.raises(WorkerExecutionUnavailable, match="no such program"):
        await runtime.send_input(worker.worker_ref, HELLO)

    policy("next_input")
    await runtime.send_input(worker.worker_ref, HELLO)


async def test_by_never_only_a_restore_brings_back_what_was_lost(soon, runtime, puppet, policy):
    policy("never")
    worker = await runtime.create_worker()
    await lose(puppet, worker)

    with pytest.raises(WorkerExecutionUnavailable, match="restore tries again"):
        await runtime.send_input(worker.worker_ref, HELLO)
    restored = await runtime.restore_worker(worker.worker_ref)

    assert restored.execution.run_state == "idle"


async def test_by_always_what_was_lost_comes_back_by_itself(soon, runtime, puppet, policy):
    policy("always")
    worker = await runtime.create_worker()
    await lose(puppet, worker)

    await connected(runtime, worker)

    assert puppet.told == ["spawn", "spawn"]


async def test_by_always_a_spawn_that_fails_is_tried_again(soon, runtime, puppet, policy):
    policy("always")
    worker = await runtime.create_worker()
    puppet.spawned = BackendAnswer("errored", "not yet")
    await lose(puppet, worker)
    await spawns(puppet, 3)
    policy("always")
    await connected(runtime, worker)


@pytest.mark.parametrize("reason", ["oom", "processes", "cpu", "output", "timeout", "silence"])
async def test_by_always_nothing_comes_back_by_itself_that_has_met_a_limit(soon, runtime, puppet, policy, reason):
    policy("always")
    worker = await runtime.create_worker()
    await lose(puppet, worker, reason)
    await asyncio.sleep(0.2)
    assert puppet.told == ["spawn"]
    await runtime.send_input(worker.worker_ref, HELLO)
    assert puppet.told.count("spawn") == 2


async def test_an_input_that_waits_brings_back_what_was_lost(soon, runtime, puppet, policy):
    policy("next_input")
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    await runtime.send_input(worker.worker_ref, LATER)

    await lose(puppet, worker)

    async with asyncio.timeout(10):
        while "dispatch later" not in puppet.told:
            await asyncio.sleep(0.01)
    assert puppet.told.count("spawn") == 2


async def test_the_delay_doubles_up_to_its_bound_while_what_comes_back_is_lost_again(
    clock, runtime, puppet, policy, monkeypatch
):
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 1.0)
    monkeypatch.setattr("runtimed.core.services.restarts.MAX_DELAY_S", 4.0)
    policy("always")
    worker = await runtime.create_worker()
    seen = []

    for delay_s in (1.0, 2.0, 4.0, 4.0):
        await lose(puppet, worker)
        for step_s in (delay_s - 0.25, 0.25):
            clock.now += step_s
            await turns()
            seen.append(runtime.worker(worker.worker_ref).execution.backend)

    assert seen == ["unconnected", "connected"] * 4


async def test_the_delay_doubles_for_a_start_that_fails_however_long_that_takes(runtime, puppet, policy, monkeypatch):
    monkeypatch.setattr("runtimed.core.services.restarts.FIRST_DELAY_S", 0.05)
    monkeypatch.setattr("runtimed.core.services.restarts.MAX_DELAY_S", 0.2)
    delays, plan = [], Restarts.plan

    def noting(restarts, mailbox):
        plan(restarts, mailbox)
        delays.append(restarts._planned[mailbox.worker.worker_id].delay_s)

    monkeypatch.setattr(Restarts, "plan", noting)
    policy("always")
    worker = await runtime.create_worker()
    puppet.spawned = BackendAnswer("errored", "not ready in time")

    async def slow(puppet, _spawn, _sink):
        puppet.told.append("spawn")
        await asyncio.sleep(0.3)
        return puppet.spawned

    monkeypatch.setattr(Puppet, "spawn", slow)
    await lose(puppet, worker)
    await spawns(puppet, 4)

    assert delays[:3] == [0.05, 0.1, 0.2]


async def test_by_always_what_is_lost_before_its_spawn_was_answered_comes_back(
    soon, runtime, puppet, policy, monkeypatch
):
    policy("always")
    spawn = Puppet.spawn

    async def lost_at_once(puppet, asked, sink):
        answer = await spawn(puppet, asked, sink)
        if puppet.told.count("spawn") == 1:
            await sink.lose("exit", "gone at once")
        return answer

    monkeypatch.setattr(Puppet, "spawn", lost_at_once)

    worker = await runtime.create_worker()

    await connected(runtime, worker)
    assert puppet.told.count("spawn") == 2


async def test_a_loss_that_is_told_after_the_end_of_a_worker_plans_nothing(soon, runtime, puppet, policy):
    policy("always")
    worker = await runtime.create_worker()
    await runtime.stop_worker(worker.worker_ref)

    await lose(puppet, worker)

    assert not runtime._started.lifecycle._restarts._planned


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_a_worker_that_has_ended_does_not_come_back(soon, runtime, puppet, policy, end):
    policy("always")
    worker = await runtime.create_worker()
    await lose(puppet, worker)
    if end == "stop":
        await runtime.stop_worker(worker.worker_ref)
    else:
        await runtime.close()
    await asyncio.sleep(0.2)
    assert puppet.told.count("spawn") == 1
