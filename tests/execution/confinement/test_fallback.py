"""What becomes of a Worker that the mechanism of its host cannot confine."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from runtimed.core.ports import Spawn
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms
from runtimed.execution.confinement.reach import Confinement, Reach
from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.network.rules import NetworkRule
from runtimed.execution.policy import GitPolicy, HostResources, Mount, SandboxPolicy, Secret
from runtimed.execution.processes.confinement import ConfinementRefused, SandboxRequest
from runtimed.model.bundle import Declaration
from runtimed.model.identity import worker_id
from runtimed.model.profile import Mechanism
from runtimed.model.worker import CreateWorkerRequest, NamedReference

WORKER = worker_id(1)
PROBLEM = "a folder belongs to root"
HOST = HostResources(
    secrets={"token": Secret(env="TOKEN")},
    mounts={"docs": Mount(Path("/usr")), "gone": Mount(Path("/nonexistent/docs"))},
    network_policies={"models": (NetworkRule("api.example.org", 443),)},
    git_policies={"ours": GitPolicy(("https://git.example.org/*",))},
)


class Unable:
    """A mechanism that works on the host, and not for this Worker."""

    mechanism: Mechanism = "bubblewrap"
    limits_network = True
    has_own_files = True

    def problem(self, reach: Reach) -> str:
        return PROBLEM


async def enclose(
    folder: Path, declarations: Sequence[Declaration] = (), *, mounts: Sequence[NamedReference] = ()
) -> tuple[str, str | None]:
    """Return the mechanism that confines a Worker after all, and why it is not confined."""
    mechanisms = Mechanisms((cast("Confinement", Unable()),))
    variables: Mapping[str, str] = {"TOKEN": "a secret"}
    made = partial(HostConfiner, resources=HOST, secrets=Secrets(HOST.secrets, variables))
    confiner = await asyncio.to_thread(made, mechanisms, HostPaths())
    request = CreateWorkerRequest(mount_refs=tuple(mounts))
    try:
        sandbox = await confiner.enclose(
            WORKER,
            SandboxRequest(SandboxPolicy("best"), ("cat",), {}, {}),
            folder,
            Spawn(WORKER, request, declarations=tuple(declarations)),
        )
        enclosure = confiner.of(WORKER)
        return sandbox.mechanism, None if enclosure is None else enclosure.problem
    finally:
        await confiner.close()


async def test_it_runs_unconfined_if_nothing_was_declared(tmp_path: Path) -> None:
    assert await enclose(tmp_path) == ("none", PROBLEM)


@pytest.mark.parametrize(
    "declaration",
    [
        Declaration("network_policy", "net", "network:models"),
        Declaration("secret_ref", "token", "secret:token"),
        Declaration("git_policy", "remotes", "git:ours"),
    ],
    ids=lambda declaration: declaration.kind,
)
async def test_it_is_refused_if_its_bundle_declares_what_only_a_confined_worker_can_be_held_to(
    tmp_path: Path, declaration: Declaration
) -> None:
    with pytest.raises(ConfinementRefused, match=f"cannot be enforced: {PROBLEM}"):
        await enclose(tmp_path, [declaration])


async def test_it_is_refused_if_it_asks_for_a_mount(tmp_path: Path) -> None:
    with pytest.raises(ConfinementRefused, match=f"cannot be enforced: {PROBLEM}"):
        await enclose(tmp_path, mounts=[NamedReference("docs", "mount:docs")])


async def test_a_mount_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfinementRefused, match="/nonexistent/docs: No such file or directory"):
        await enclose(tmp_path, mounts=[NamedReference("docs", "mount:gone")])
