"""The backends of profiles that have changed go on until no Worker needs them."""

import asyncio
from collections.abc import Mapping

import attrs
import pytest

from runtimed.core.ports import ExecutionBackend
from runtimed.errors import ConfigurationError
from runtimed.execution import Profile
from runtimed.execution.echo import EchoBackend
from runtimed.execution.factories import BackendFactory
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.profile_backends import ProfileBackends

DEADLINE_S = 30
WARM = Profile("echo", warm=1)
COLD = Profile("echo")


class Backend(EchoBackend):
    """A backend that starts programs before their Workers are known, and notes what it is told."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self.profile = profile
        self.told: list[str] = []

    @property
    def ready(self) -> int:
        return 1

    def keep_warm(self, idle_s: float) -> None:
        self.told.append(f"keep_warm {idle_s:g}")

    async def end_warm(self) -> None:
        self.told.append("end_warm")

    async def close(self) -> None:
        self.told.append("close")


@attrs.define
class Made:
    """The backends of some profiles, and all that were ever made."""

    backends: ProfileBackends
    made: list[Backend]
    broken: list[Profile]
    """Profiles whose backends cannot be made."""

    def backend(self, name: str) -> Backend:
        found = self.backends.backend(name)
        assert isinstance(found, Backend)
        return found


@pytest.fixture
async def made() -> Made:
    found: list[Backend] = []
    broken: list[Profile] = []

    def make(_factory: BackendFactory, profile: Profile) -> ExecutionBackend:
        if profile in broken:
            raise ValueError("no such region")
        found.append(Backend(profile))
        return found[-1]

    backends = ProfileBackends({"a": COLD, "b": WARM, "c": COLD}, SandboxPolicy(), make)
    await backends.find_factories()
    await backends.keep_warm(5)
    return Made(backends, found, broken)


async def replace(
    made: Made,
    profiles: Mapping[str, Profile],
    sandbox: SandboxPolicy | None = None,
    warm_idle_s: float = 5,
    *,
    renew_warm: bool = False,
) -> None:
    apply = await made.backends.prepare_replacement(
        profiles, sandbox or SandboxPolicy(), warm_idle_s, renew_warm=renew_warm
    )
    apply()


async def told(backend: Backend, last: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while backend.told[-1:] != [last]:
            await asyncio.sleep(0)


async def test_only_a_changed_profile_gets_another_backend_and_the_old_one_closes_once_unused(made: Made) -> None:
    before = {name: made.backend(name) for name in "abc"}
    changed = attrs.evolve(COLD, description="changed")

    await replace(made, {"a": COLD, "b": WARM, "c": changed})
    made.backends.close_retired([before["c"]])

    assert [made.backend(name) is before[name] for name in "abc"] == [True, True, False]
    assert made.backend("c").profile == changed
    assert before["c"].told == []
    made.backends.close_retired([])
    await told(before["c"], "close")
    assert before["b"].told == ["keep_warm 5"]


async def test_warm_programs_of_a_changed_profile_are_renewed_while_its_workers_go_on(made: Made) -> None:
    before = made.backend("b")

    await replace(made, {"b": attrs.evolve(WARM, warm=2)}, warm_idle_s=9)
    made.backends.close_retired([before])

    await told(before, "end_warm")
    assert made.backend("b").told == ["keep_warm 9"]
    assert made.backends.ready("b") == 1
    assert made.backends.ready("a") == 0


async def test_warm_programs_of_the_same_profile_are_renewed_on_request(made: Made) -> None:
    before = made.backend("b")

    await replace(made, {"b": WARM}, renew_warm=True)

    await told(before, "end_warm")
    assert made.backend("b") is not before


async def test_profiles_are_not_replaced_at_all_if_programs_of_one_could_not_be_kept_ready(made: Made) -> None:
    before = {name: made.backend(name) for name in "abc"}
    changed, unusable = attrs.evolve(COLD, description="changed"), attrs.evolve(WARM, warm=2)
    made.broken.append(unusable)

    with pytest.raises(ConfigurationError, match=r"profiles\.b: the backend echo cannot be made: .*no such region"):
        await replace(made, {"a": changed, "b": unusable})

    assert {name: made.backend(name) for name in "abc"} == before
    assert [backend.told for backend in before.values()] == [[], ["keep_warm 5"], []]
    await replace(made, {"a": changed, "b": WARM})
    assert made.backend("a").profile == changed
    assert made.backend("b") is before["b"]


async def test_a_sandbox_for_all_changes_the_built_in_profiles(made: Made) -> None:
    before = made.backend("builtin:echo")

    await replace(made, {}, SandboxPolicy(network="none"))

    assert made.backend("builtin:echo") is not before
    assert made.backend("builtin:echo").profile.sandbox == SandboxPolicy(network="none")


async def test_the_end_closes_retired_backends_too(made: Made) -> None:
    before = [made.backend(name) for name in "abc"]
    await replace(made, {})

    assert set(await made.backends.close()) == {None}

    assert [backend.told[-1] for backend in before] == ["close"] * 3
