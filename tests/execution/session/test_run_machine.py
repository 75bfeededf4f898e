"""The life of runs that no kind of program needs to be told apart for."""

import asyncio
from pathlib import Path

from runtimed.core.ports import Dispatch, Spawn
from runtimed.execution import Profile
from runtimed.execution.session.run_machine import RunMachine
from runtimed.model.event import InvokeStart
from runtimed.model.identity import worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from tests.contracts.fake_driver import FakeDriver
from tests.execution.conftest import RecordingSink


class CountingDriver(FakeDriver):
    """Counts how often its program is killed."""

    kills = 0

    async def kill(self) -> None:
        self.kills += 1
        await super().kill()


async def test_a_program_without_grace_is_not_killed_again_at_once_while_its_last_words_wait(
    recorder: RecordingSink, tmp_path: Path
) -> None:
    profile, spawn = Profile("process", stop_grace_s=0), Spawn(worker_id(1), CreateWorkerRequest())
    driver = CountingDriver(profile, DataDir(tmp_path / "store", is_scratch=True), spawn, recorder)
    machine = RunMachine(driver, profile, spawn, recorder)
    await machine.open()
    dispatch = Dispatch(worker_id(1), "input-1", WorkerInput("user", "text('last words'); hang()"))
    await machine.offer(dispatch)
    machine.start("input-1")
    await recorder.until(lambda events: any(isinstance(event, InvokeStart) for event in events))
    recorder.hold()
    interrupting = asyncio.create_task(machine.interrupt(0))
    while not driver.kills:
        await asyncio.sleep(0)

    for _ in range(100):
        await asyncio.sleep(0)

    assert driver.kills == 1
    recorder.free()
    await interrupting
    await machine.end(0)
