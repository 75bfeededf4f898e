"""`GET /v1/profiles`: what can run a Worker, and what keeps it from starting."""

from pathlib import Path
from typing import Any

import pytest

from runtimed.core import Runtime
from runtimed.execution import summaries
from runtimed.execution.profile import Profile
from runtimed.execution.registry import ProfileRegistry
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from tests.http.conftest import serving

UNCONFINED = {"mechanism": "none", "network": "host"}


async def profiles_of(tmp_path: Path, profiles: dict[str, Profile]) -> dict[str, Any]:
    """The profiles that a server with this configuration lists, by selector."""
    registry = ProfileRegistry(profiles, workspaces=DataDir(tmp_path))
    async with (
        Runtime(MemoryStore(), registry, profiles=registry) as runtime,
        serving(runtime) as served,
        served.client.get(f"{served.url}/v1/profiles") as response,
    ):
        assert response.status == 200
        listed = (await response.json())["profiles"]
    names = [profile["selector"] for profile in listed]
    assert names == sorted(names)
    return {profile["selector"]: profile for profile in listed}


async def test_the_built_in_profiles_are_there_without_configuration(tmp_path: Path) -> None:
    found = await profiles_of(tmp_path, {})

    assert found == {
        "builtin:echo": {
            "selector": "builtin:echo",
            "backend": "echo",
            "capabilities": [],
            "sandbox": UNCONFINED,
            "available": True,
            "default": True,
        },
        "builtin:shell": {
            "selector": "builtin:shell",
            "backend": "shell",
            "capabilities": ["shell"],
            "sandbox": UNCONFINED,
            "available": True,
        },
    }


async def test_a_configured_profile_says_what_it_is_for_and_what_it_needs(tmp_path: Path) -> None:
    profile = Profile("process", command=("sh", "-c", "cat"), capabilities=("read", "write"), description="a cat")

    found = await profiles_of(tmp_path, {"named": profile})

    assert found["named"] == {
        "selector": "named",
        "backend": "process",
        "capabilities": ["read", "write"],
        "sandbox": UNCONFINED,
        "available": True,
        "description": "a cat",
    }


async def test_a_profile_whose_program_cannot_be_run_is_not_available_and_says_why(tmp_path: Path) -> None:
    text = tmp_path / "notes"
    text.write_text("nothing to execute")
    own_path = {"PATH": str(tmp_path)}
    profiles = {
        "absent": Profile("process", command=("no-such-program",)),
        "moved": Profile("process", command=(str(tmp_path / "gone"), "--serve")),
        "text": Profile("process", command=(str(text),)),
        "elsewhere": Profile("process", command=("sh",), env=own_path),
        "relative": Profile("process", command=("./agent",)),
    }

    found = await profiles_of(tmp_path, profiles)

    problems = {name: found[name].get("problem", "") for name in profiles}
    assert {name: found[name]["available"] for name in profiles} == {name: name == "relative" for name in profiles}, (
        problems
    )
    assert problems["absent"].startswith("command: 'no-such-program' does not exist")
    assert problems["text"].startswith("command: 'notes' can't be run")
    assert not any(str(tmp_path) in problem for problem in problems.values())


async def test_a_profile_whose_backend_or_library_is_missing_is_not_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "find_spec", lambda _name: None)
    profiles = {"agent": Profile("acp", command=("sh",)), "other": Profile("quantum")}

    found = await profiles_of(tmp_path, profiles)

    assert found["agent"]["problem"] == "the library of the backend acp is missing: install runtimed[acp]"
    assert found["other"]["problem"] == "no backend 'quantum' is installed"
    assert not found["agent"]["available"]
    assert not found["other"]["available"]


async def test_a_shell_is_not_available_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    found = await profiles_of(tmp_path, {})

    assert found["builtin:shell"]["problem"] == "none of bash, sh is in PATH"
    assert found["builtin:echo"]["available"]


async def test_a_program_that_is_installed_later_makes_its_profile_available(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    registry = ProfileRegistry({"agent": Profile("process", command=(str(program),))}, workspaces=DataDir(tmp_path))
    async with Runtime(MemoryStore(), registry, profiles=registry) as runtime:
        before = {profile.selector: profile.available for profile in await runtime.profiles()}
        program.write_text("#!/bin/sh\n")
        program.chmod(0o700)
        after = {profile.selector: profile.available for profile in await runtime.profiles()}

    assert (before["agent"], after["agent"]) == (False, True)
