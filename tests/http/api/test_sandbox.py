"""What clients learn about the confinement of Workers on a host that cannot confine all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtimed.core import Runtime
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import ECHO, Profile
from runtimed.execution.registry import ProfileRegistry
from runtimed.model.execution import Execution
from runtimed.model.profile import MechanismCheck, SandboxMode
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from tests.http.conftest import serving

CHECKS = (MechanismCheck("bubblewrap", works=False, problem="bwrap is not in PATH"),)


def registry_without_mechanism(folder: Path, **modes: SandboxMode) -> ProfileRegistry:
    """Profiles of a process by name, on a host that has nothing to confine it."""
    supervisor = Supervisor(confiner=HostConfiner(Mechanisms((), CHECKS), HostPaths()))
    return ProfileRegistry(profiles(modes), workspaces=DataDir(folder), supervisor=supervisor)


def profiles(modes: Mapping[str, SandboxMode]) -> dict[str, Profile]:
    return {
        f"builtin:{name}": Profile("process", command=("cat",), sandbox=SandboxPolicy(mode=mode))
        for name, mode in modes.items()
    }


async def replace(registry: ProfileRegistry, *, host_changed: bool, **modes: SandboxMode) -> None:
    apply = await registry.prepare_replacement(
        profiles(modes), ECHO, SandboxPolicy(), warm_idle_s=1, host_changed=host_changed
    )
    apply()


async def create(runtime: Runtime, name: str) -> Execution:
    """Create a Worker and return what came of its spawn."""
    detail = await runtime.create_worker(CreateWorkerRequest(profile=BuiltinProfile(f"builtin:{name}")))
    return detail.execution


def unconfined(runtime: Runtime) -> list[str]:
    """The messages of the diagnostics about profiles that run unconfined."""
    return [each.message for each in runtime.diagnostics() if each.code == "profile.unconfined"]


async def test_a_profile_that_runs_unconfined_is_a_diagnostic_once(tmp_path: Path) -> None:
    registry = registry_without_mechanism(tmp_path, first="best", second="best")
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime:
        before = runtime.summary().diagnostic_count
        found = [(await create(runtime, name)).sandbox for name in ("first", "first", "second")]
        told = unconfined(runtime)
        after = runtime.summary().diagnostic_count
        shown = len(runtime.diagnostics())
    await registry.close()

    problem = "run unconfined: this host has neither bubblewrap nor Landlock: install bubblewrap"
    assert told == [f"Workers of profile builtin:{name} {problem}" for name in ("first", "second")]
    assert {sandbox and sandbox.mechanism for sandbox in found} == {"none"}
    assert (before, after) == (0, shown)


async def test_a_reload_forgets_that_a_profile_ran_unconfined_if_it_concerns_the_profile(tmp_path: Path) -> None:
    registry = registry_without_mechanism(tmp_path, kept="best", closed="best", gone="best")
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime:
        for name in ("kept", "closed", "gone"):
            await create(runtime, name)
        await replace(registry, host_changed=False, kept="best", closed="required")
        told = unconfined(runtime)
        await replace(registry, host_changed=True, kept="best")
        forgotten = unconfined(runtime)
        await create(runtime, "kept")
        told_again = unconfined(runtime)
    await registry.close()

    assert [message.split()[3] for message in told] == ["builtin:kept"]
    assert forgotten == []
    assert told_again == told


@pytest.mark.parametrize("mode", ["off", "required"])
async def test_a_profile_that_accepts_no_fallback_is_no_diagnostic(tmp_path: Path, mode: SandboxMode) -> None:
    registry = registry_without_mechanism(tmp_path, only=mode)
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime:
        execution = await create(runtime, "only")
        told = unconfined(runtime)
    await registry.close()

    assert told == []
    assert execution.run_state == ("idle" if mode == "off" else "rejected")


async def test_the_sandbox_of_the_runtime_says_what_does_not_work_and_why(tmp_path: Path) -> None:
    registry = registry_without_mechanism(tmp_path)
    found: dict[str, Any] = {}
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime, serving(runtime) as served:
        for path in ("runtime", "runtime/sandbox"):
            async with served.client.get(f"{served.url}/v1/{path}") as response:
                found |= await response.json()
    await registry.close()

    assert found["runtime"]["sandbox"] == {"mechanism": "none", "network": "host"}
    assert found["sandbox"] == {
        "mode": "best",
        "mechanism": "none",
        "network": "host",
        "mechanisms": [{"mechanism": "bubblewrap", "works": False, "problem": "bwrap is not in PATH"}],
    }


async def test_a_runtime_whose_backend_confines_nothing_says_so() -> None:
    async with Runtime(MemoryStore()) as runtime:
        sandbox = runtime.sandbox()

    assert (sandbox.mode, sandbox.mechanism, sandbox.network, sandbox.mechanisms) == ("off", "none", "host", ())
