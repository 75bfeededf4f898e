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
from runtimed.execution.policy import HostResources, Mount, SandboxPolicy
from runtimed.execution.processes.confinement import ConfinementRefused, SandboxRequest
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest, NamedReference
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


async def test_a_mount_whose_place_a_worker_has_given_to_a_link_is_shown_to_nobody(tmp_path: Path) -> None:
    problem, bubblewrap = await asyncio.to_thread(find_bubblewrap, None)
    if bubblewrap is None:
        pytest.skip(f"bubblewrap does not work here: {problem}")
    work, own = tmp_path / "work", tmp_path / "own"
    for folder in (work / "docs", own, tmp_path / "secret"):
        folder.mkdir(parents=True)
    (work / "file").touch()
    resources = HostResources(mounts={"docs": Mount(work / "docs"), "file": Mount(work / "file")})
    mechanisms = Mechanisms((bubblewrap,))
    confiner = await asyncio.to_thread(HostConfiner, mechanisms, HostPaths(), resources=resources)
    asked = SandboxRequest(SandboxPolicy("required", "none"), ("true",), {"PATH": "/bin"}, {})

    for name in ("docs", "file"):
        mounts = (NamedReference(name, f"mount:{name}"),)
        request = CreateWorkerRequest(profile=BuiltinProfile("builtin:cat"), mount_refs=mounts)
        await confiner.enclose(FIRST, asked, own, Spawn(FIRST, request))
        (work / name).rename(work / "moved")
        (work / name).symlink_to(tmp_path / "secret")

        enclosure = confiner.of(FIRST)
        assert enclosure is not None
        with pytest.raises(OSError, match="was replaced by a link"):
            await asyncio.to_thread(enclosure.launch, ["true"], Path("/"), {})
        with pytest.raises(ConfinementRefused, match="was replaced by a link"):
            await confiner.enclose(FIRST, asked, own, Spawn(FIRST, request))
        (work / name).unlink()
        (work / "moved").rename(work / name)
    await confiner.close()
