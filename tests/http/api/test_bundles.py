"""`GET /v1/config-bundles/{id}/host-check`: what a host would do with the declarations of a bundle."""

from pathlib import Path
from typing import Any

import attrs

from runtimed.core import Runtime
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms
from runtimed.execution.policy import HostResources, SandboxPolicy, Secret
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import ECHO, SHELL, Profile
from runtimed.execution.registry import ProfileRegistry
from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Declaration, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.worker import (
    BuiltinProfile,
    BundleReference,
    CapabilityRequest,
    CreateWorkerRequest,
    NamedProfile,
    ProfileSelector,
    RuntimeDefaultProfile,
)
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from tests.http.conftest import serving

SECRET = Declaration("secret_ref", "credential", "secret:key")
UNKNOWN = Declaration("secret_ref", "other", "secret:nope")
CAPABILITY = Declaration("capability_grant", "tools", "capability:shell")
INSTALL = "nothing on this host can enforce it: install bubblewrap"


def bundle(profiles: list[ProfileSelector], *declarations: Declaration) -> ConfigBundle:
    metadata = BundleMetadata("b", "", "1", "workspace-1", "2026-06-26T00:00:00Z", Provenance("test"))
    unsigned = ConfigBundle(metadata, tuple(map(BundleProfile, profiles)), declarations)
    return attrs.evolve(unsigned, metadata=attrs.evolve(metadata, digest=bundle_digest(unsigned)))


def registry_of(folder: Path, profiles: dict[str, Profile]) -> ProfileRegistry:
    """A host without any mechanism that confines."""
    resources = HostResources(secrets={"key": Secret(env="KEY")})
    supervisor = Supervisor(confiner=HostConfiner(Mechanisms(), HostPaths(), resources=resources))
    return ProfileRegistry(profiles, workspaces=DataDir(folder), supervisor=supervisor)


async def checked(
    folder: Path, held: ConfigBundle, profiles: dict[str, Profile] | None = None, digest: str = ""
) -> tuple[int, Any]:
    """The status and the body of a check."""
    registry = registry_of(folder, profiles or {})
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime, serving(runtime) as served:
        await runtime.put_bundle(held)
        query = {"digest": digest or held.metadata.digest}
        async with served.client.get(f"{served.url}/v1/config-bundles/b/host-check", params=query) as response:
            return response.status, await response.json()


async def test_a_check_tells_enforced_declarations_from_unknown_and_unenforceable_ones(
    tmp_path: Path,
) -> None:
    held = bundle([BuiltinProfile(SHELL)], SECRET, UNKNOWN, CAPABILITY)

    status, body = await checked(tmp_path, held)

    assert (status, body["check"]["accepted"]) == (200, False)
    assert body["check"]["reference"] == {"id": "b", "digest": held.metadata.digest}
    [profile] = body["check"]["profiles"]
    assert (profile["selector"], profile["sandbox"]["mechanism"]) == (SHELL, "none")
    assert [(one["outcome"], one["detail"]) for one in profile["declarations"]] == [
        ("unenforceable", INSTALL),
        ("unknown", "this host has no 'nope' in [secrets]"),
        ("enforced", "the Runtime: only what is granted may be requested"),
    ]


async def test_a_check_judges_each_profile_by_itself(tmp_path: Path) -> None:
    off = Profile("shell", sandbox=SandboxPolicy(mode="off"))
    held = bundle([NamedProfile("off"), BuiltinProfile(ECHO), RuntimeDefaultProfile(), NamedProfile("nope")], SECRET)

    _, body = await checked(tmp_path, held, {"off": off})

    found = {profile["selector"]: profile for profile in body["check"]["profiles"]}
    assert list(found) == ["off", ECHO, "nope"]
    assert found["off"]["declarations"][0]["detail"] == 'the sandbox of the profile has mode = "off"'
    assert found[ECHO]["declarations"][0]["outcome"] == "enforced"
    assert found["nope"]["problem"].startswith("no profile 'nope' is configured")


async def test_a_bundle_that_holds_on_this_host_is_accepted(tmp_path: Path) -> None:
    _, body = await checked(tmp_path, bundle([BuiltinProfile(SHELL)], CAPABILITY))

    assert body["check"]["accepted"] is True


async def test_a_bundle_without_profiles_gives_no_worker(tmp_path: Path) -> None:
    _, body = await checked(tmp_path, bundle([], CAPABILITY))

    assert body["check"]["accepted"] is False


async def test_a_check_finds_a_capability_that_a_profile_needs_and_the_bundle_keeps_back(tmp_path: Path) -> None:
    other = attrs.evolve(CAPABILITY, reference="capability:read")

    _, body = await checked(tmp_path, bundle([BuiltinProfile(SHELL)], other))

    [profile] = body["check"]["profiles"]
    assert (body["check"]["accepted"], profile["problem"]) == (
        False,
        "it needs shell, which the bundle does not grant",
    )


async def test_a_check_of_another_version_is_refused(tmp_path: Path) -> None:
    held = bundle([BuiltinProfile(SHELL)])

    status, body = await checked(tmp_path, held, digest="0" * 64)

    assert (status, body["error"]["code"]) == (400, "config_bundle_digest_mismatch")


async def test_what_a_check_reports_is_what_rejects_a_worker(tmp_path: Path) -> None:
    held = bundle([BuiltinProfile(SHELL)], SECRET)
    registry = registry_of(tmp_path, {})
    request = CreateWorkerRequest(
        profile=BuiltinProfile(SHELL),
        config_bundle=BundleReference("b", held.metadata.digest),
        requested_capabilities=(CapabilityRequest("shell"),),
    )
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime:
        await runtime.put_bundle(held)
        worker = await runtime.create_worker(request)

    result = worker.execution.last_result
    assert result is not None
    assert (result.operation, result.outcome) == ("spawn", "rejected")
    assert result.message == f"profile {SHELL}: secret_ref 'credential' (secret:key): {INSTALL}"
