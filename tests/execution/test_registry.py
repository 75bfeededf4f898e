"""How a host's profiles decide what runs a Worker, and what is said when nothing can."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtimed.core.ports import Dispatch, EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution import Profile, ProfileRegistry
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms
from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.echo import EchoBackend
from runtimed.execution.policy import HostResources, SandboxPolicy, Secret
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import ECHO
from runtimed.model.event import InvokeStart, Payload, RunEnd, TextDelta, TextDone
from runtimed.model.identity import worker_id
from runtimed.model.interaction import WorkerInput
from runtimed.model.mcp_server import McpServer
from runtimed.model.worker import (
    BuiltinProfile,
    CapabilityRequest,
    CreateWorkerRequest,
    NamedProfile,
    ProfileSelector,
    RuntimeDefaultProfile,
)
from runtimed.store.data_dir import DataDir
from tests.execution.conftest import RecordingSink

FIRST = worker_id(1)


class Host:
    """Makes registries, and closes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[ProfileRegistry] = []

    def registry(self, profiles: Mapping[str, Profile] | None = None, **options: Any) -> ProfileRegistry:
        self._made.append(ProfileRegistry(profiles or {}, workspaces=DataDir(self._folder), **options))
        return self._made[-1]

    async def close(self) -> None:
        for made in self._made:
            await made.close()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    yield made
    await made.close()


async def _spawn(registry: ProfileRegistry, sink: EventSink, selector: ProfileSelector, *names: str) -> BackendAnswer:
    requested = tuple(CapabilityRequest(name) for name in names)
    return await registry.spawn(
        Spawn(FIRST, CreateWorkerRequest(profile=selector, requested_capabilities=requested)), sink
    )


async def _hear(registry: ProfileRegistry, recorder: RecordingSink, given: WorkerInput) -> list[Payload]:
    assert await registry.dispatch(Dispatch(FIRST, "one", given)) == BackendAnswer("accepted")
    registry.start(FIRST, "one")
    await recorder.until(lambda events: events[-1:] == [RunEnd("finished")])
    return list(recorder.events)


async def test_the_runtime_default_is_echo_unless_configured(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry()
    assert await _spawn(registry, recorder, RuntimeDefaultProfile()) == BackendAnswer("accepted")
    assert await _hear(registry, recorder, WorkerInput("user", "hello")) == [
        InvokeStart("user_send"),
        TextDelta("hello"),
        TextDone("hello"),
        RunEnd("finished"),
    ]


async def test_a_worker_that_a_reload_meets_in_its_spawn_is_not_refused_for_names_that_it_changed(
    host: Host, recorder: RecordingSink
) -> None:
    class Reloading(Secrets):
        """Has both the profile and the names changed once a Worker's old profile is looked at."""

        async def get(self, name: str) -> str:
            confiner.replace(
                Mechanisms(), HostPaths(), HostResources(), Secrets({"new": Secret(env="NEW")}, {"NEW": "x"})
            )
            reload()
            return await super().get(name)

    confiner = HostConfiner(Mechanisms(), HostPaths(), secrets=Reloading({}))
    registry = host.registry({"builtin:one": _naming("old")}, supervisor=Supervisor(confiner=confiner))
    reload = await registry.prepare_replacement(
        {"builtin:one": _naming("new")}, ECHO, SandboxPolicy(), warm_idle_s=1, host_changed=True
    )

    answer = await _spawn(registry, recorder, BuiltinProfile("builtin:one"))

    assert answer == BackendAnswer("accepted")


def _naming(secret: str) -> Profile:
    return Profile("process", command=("cat",), env={"KEY": f"secret:{secret}"})


async def test_echo_says_back_a_system_input_as_a_notification(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry()
    await _spawn(registry, recorder, BuiltinProfile("builtin:echo"))
    events = await _hear(registry, recorder, WorkerInput("system", "wake up"))
    assert events[0] == InvokeStart("notify")
    assert TextDone("wake up") in events


async def test_a_default_profile_may_be_any_that_is_configured(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry({"reviewer": Profile("shell")}, default_profile="reviewer")
    assert await _spawn(registry, recorder, RuntimeDefaultProfile()) == BackendAnswer("accepted")
    events = await _hear(registry, recorder, WorkerInput("user", "echo I am a shell"))
    assert TextDone("I am a shell\n") in events


async def test_a_named_selector_means_the_profile_of_that_name(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry({"reviewer": Profile("echo")})
    assert await _spawn(registry, recorder, NamedProfile("reviewer")) == BackendAnswer("accepted")


async def test_the_configuration_may_replace_a_built_in_profile(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry({"builtin:shell": Profile("shell", env={"GREETING": "hi"})})
    assert await _spawn(registry, recorder, BuiltinProfile("builtin:shell")) == BackendAnswer("accepted")
    assert TextDone("hi\n") in await _hear(registry, recorder, WorkerInput("user", "echo $GREETING"))


async def test_an_unknown_profile_is_rejected_with_the_table_to_add(host: Host, recorder: RecordingSink) -> None:
    answer = await _spawn(host.registry(), recorder, BuiltinProfile("builtin:coder"))
    assert answer == BackendAnswer(
        "rejected",
        "no profile 'builtin:coder' is configured: add [profiles.\"builtin:coder\"] to the configuration",
    )


async def test_the_name_of_an_unknown_profile_can_not_break_the_line(host: Host, recorder: RecordingSink) -> None:
    answer = await _spawn(host.registry(), recorder, NamedProfile('a"]\nb'))
    assert answer.message is not None
    assert answer.message.isprintable()


async def test_a_missing_default_profile_is_rejected_too(host: Host, recorder: RecordingSink) -> None:
    answer = await _spawn(host.registry(default_profile="gone"), recorder, RuntimeDefaultProfile())
    assert answer.outcome == "rejected"
    assert "'gone'" in str(answer.message)


async def test_a_capability_that_was_not_requested_is_named(host: Host, recorder: RecordingSink) -> None:
    answer = await _spawn(host.registry(), recorder, BuiltinProfile("builtin:shell"), "read")
    assert answer == BackendAnswer(
        "rejected", "profile builtin:shell needs the capability shell: request it when creating the Worker"
    )


async def test_all_missing_capabilities_are_named(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry({"coder": Profile("shell", capabilities=("read", "write", "shell"))})
    answer = await _spawn(registry, recorder, NamedProfile("coder"), "write")
    assert answer == BackendAnswer(
        "rejected", "profile coder needs the capabilities read, shell: request them when creating the Worker"
    )


async def test_a_refused_worker_takes_no_input(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry()
    await _spawn(registry, recorder, BuiltinProfile("builtin:shell"))
    answer = await registry.dispatch(Dispatch(FIRST, "one", WorkerInput("user", "true")))
    assert answer == BackendAnswer("errored", "nothing runs this Worker")


async def test_an_adapter_that_fails_is_answered_as_errored_and_logged(
    host: Host, recorder: RecordingSink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> BackendAnswer:
        raise RuntimeError("a bug")

    def fail_at_once(*_: object) -> None:
        raise RuntimeError("another bug")

    registry = host.registry()
    await _spawn(registry, recorder, BuiltinProfile("builtin:echo"))
    for name in ("dispatch", "stop"):
        monkeypatch.setattr(EchoBackend, name, fail)
    for name in ("start", "withdraw"):
        monkeypatch.setattr(EchoBackend, name, fail_at_once)
    assert (await registry.dispatch(Dispatch(FIRST, "one", WorkerInput("user", "hello")))).outcome == "errored"
    registry.start(FIRST, "one")
    registry.withdraw(FIRST, "one")
    assert (await registry.stop(FIRST, None)).outcome == "errored"
    assert len([record for record in caplog.records if record.exc_info]) == 4


async def test_a_session_is_configured_only_where_there_is_an_agent(host: Host, recorder: RecordingSink) -> None:
    registry = host.registry()
    request = CreateWorkerRequest(session_config={"mode": "default"})

    answer = await registry.spawn(Spawn(FIRST, request), recorder)

    assert answer == BackendAnswer(
        "rejected", "session_config: profile builtin:echo runs no agent of the backend acp"
    )


@pytest.mark.parametrize("selector", ["builtin:echo", "builtin:agent"])
async def test_servers_of_a_request_are_refused_unless_the_profile_takes_them(
    host: Host, recorder: RecordingSink, selector: str
) -> None:
    registry = host.registry({"builtin:agent": Profile("acp", command=("true",))})
    request = CreateWorkerRequest(profile=BuiltinProfile(selector), mcp_servers=(McpServer("a", ("x",)),))

    answer = await registry.spawn(Spawn(FIRST, request), recorder)

    assert answer.outcome == "rejected"
    assert str(answer.message).startswith(f"mcp_servers: profile {selector} takes none from clients: ")


async def test_a_worker_that_was_ended_before_its_adapter_knew_of_it_can_be_ended(
    host: Host, recorder: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = EchoBackend.spawn

    async def late(self: EchoBackend, asked: Spawn, sink: EventSink) -> BackendAnswer:
        assert await registry.cancel(FIRST, None) == BackendAnswer("accepted")
        return await spawn(self, asked, sink)

    monkeypatch.setattr(EchoBackend, "spawn", late)
    registry = host.registry()
    assert await _spawn(registry, recorder, RuntimeDefaultProfile()) == BackendAnswer("accepted")
    assert await _hear(registry, recorder, WorkerInput("user", "hello"))
    await registry.cancel(FIRST, None)
    refused = await registry.dispatch(Dispatch(FIRST, "two", WorkerInput("user", "hello")))
    assert refused.outcome == "errored"
