"""Who gets which user from the Confiner of a host."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtimed.core.ports import Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms, find_bubblewrap
from runtimed.execution.confinement.users import Users
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import NUMBERS, RecordingSink

FIRST, SECOND = worker_id(1), worker_id(2)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ProfileRegistry]:
    """A registry with only one user for Workers."""
    if os.geteuid() != 0:
        pytest.skip("only root gives Workers users")
    problem, bubblewrap = await asyncio.to_thread(find_bubblewrap, NUMBERS.start)
    if bubblewrap is None:
        pytest.skip(f"bubblewrap does not work here: {problem}")
    scratch = tmp_path / "scratch"
    users = Users(range(NUMBERS.start, NUMBERS.start + 1), scratch / "workers")
    supervisor = Supervisor(confiner=HostConfiner(Mechanisms((bubblewrap,)), HostPaths((scratch,)), users))
    profile = Profile("process", ("cat",), stop_grace_s=0.5, sandbox=SandboxPolicy("required", "none"))
    folders = DataDir(scratch, is_scratch=True)
    made = ProfileRegistry({"builtin:cat": profile}, workspaces=folders, supervisor=supervisor)
    yield made
    await made.close()


async def spawn(registry: ProfileRegistry, worker: WorkerId, sink: RecordingSink) -> BackendAnswer:
    return await registry.spawn(Spawn(worker, CreateWorkerRequest(profile=BuiltinProfile("builtin:cat"))), sink)


async def test_a_stopped_worker_keeps_its_user_and_a_deleted_one_gives_it_back(
    registry: ProfileRegistry, recorder: RecordingSink
) -> None:
    assert (await spawn(registry, FIRST, recorder)).outcome == "accepted"
    await registry.stop(FIRST, None)
    refused = await spawn(registry, SECOND, recorder)
    assert "sandbox.uids: all 1 numbers are taken" in (refused.message or "")

    await registry.delete(FIRST)

    assert (await spawn(registry, SECOND, recorder)).outcome == "accepted"
