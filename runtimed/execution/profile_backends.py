"""The backend of each profile, and those of profiles that have changed since."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import attrs

from runtimed.core.ports import ExecutionBackend
from runtimed.errors import ConfigurationError
from runtimed.execution.factories import BackendFactory, WarmBackend, installed_backends
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.profile import BUILT_IN, Profile
from runtimed.execution.tasks import begin

log = logging.getLogger(__name__)

Make = Callable[[BackendFactory, Profile], ExecutionBackend]


class ProfileBackends:
    """The backends of the profiles of a host, each made when it is first needed.

    When profiles are replaced, the backends of those that have changed are retired: they spawn no more Workers, and
    are closed once no Worker needs them.

    Args:
        profiles: Profiles by their selector; they add to the built-in ones or replace them.
        sandbox: How the Workers of the built-in profiles are confined.
        make: Makes a backend.

    Attributes:
        profiles: All profiles by their selector.
        factories: The installed backends by name; empty before `find_factories`.
    """

    def __init__(self, profiles: Mapping[str, Profile], sandbox: SandboxPolicy, make: Make) -> None:
        self.profiles: Mapping[str, Profile] = _with_built_in(profiles, sandbox)
        self.factories: Mapping[str, BackendFactory] = {}
        self._make = make
        self._made: dict[str, ExecutionBackend] = {}
        self._warm: dict[str, WarmBackend] = {}
        self._warm_idle_s = 0.0
        self._retired: set[ExecutionBackend] = set()
        self._tidying: set[asyncio.Task[None]] = set()

    async def find_factories(self) -> None:
        """Find the installed backends. The first look-up reads files."""
        self.factories = self.factories or await asyncio.to_thread(installed_backends)

    def factory(self, name: str) -> BackendFactory:
        """Return the factory of a profile's backend."""
        return self.factories[self.profiles[name].backend]

    def backend(self, name: str) -> ExecutionBackend:
        """Return the backend of a profile."""
        if name not in self._made:
            self._made[name] = self._make(self.factory(name), self.profiles[name])
        return self._made[name]

    def with_sessions(self) -> list[ExecutionBackend]:
        """Return the backends that keep something of a Worker outside of its folder."""
        kept = {name for name, factory in self.factories.items() if factory.keeps_sessions}
        return [self.backend(name) for name, profile in self.profiles.items() if profile.backend in kept]

    async def keep_warm(self, idle_s: float) -> None:
        """Start the programs that profiles want to be ready. They wait `idle_s` seconds for a Worker."""
        self._warm_idle_s = idle_s
        if any(profile.warm for profile in self.profiles.values()):
            await self.find_factories()
        self._begin_warm(self.profiles)

    def ready(self, name: str) -> int:
        """Return how many programs of a profile wait for a Worker."""
        warm = self._warm.get(name)
        return 0 if warm is None else warm.ready

    async def prepare_replacement(
        self, profiles: Mapping[str, Profile], sandbox: SandboxPolicy, warm_idle_s: float, *, renew_warm: bool
    ) -> Callable[[], None]:
        """Make the backends that other profiles need at once, and return what takes these profiles.

        The backends of profiles that have changed are retired then.

        Args:
            profiles: Profiles by their selector.
            sandbox: How the Workers of the built-in profiles are confined.
            warm_idle_s: How long programs that are kept ready wait for a Worker, in seconds. If it differs, all of
                them are started anew.
            renew_warm: Start all of them anew, not only those of profiles that have changed.

        Raises:
            ConfigurationError: The backend of a profile cannot be made.
        """
        await self.find_factories()
        before, after = self.profiles, _with_built_in(profiles, sandbox)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if renew_warm or warm_idle_s != self._warm_idle_s:
            changed |= {name for name, profile in after.items() if profile.warm}
        made = {
            name: self._make_checked(name, profile)
            for name, profile in after.items()
            if name in changed and profile.warm and profile.backend in self.factories
        }
        return partial(self._replace, after, warm_idle_s, changed, made)

    def close_retired(self, used: Collection[ExecutionBackend]) -> None:
        """Close the retired backends that no Worker uses, in the background."""
        for backend in self._retired.difference(used) if self._retired else ():
            self._retired.discard(backend)
            self._tidy(backend.close())

    async def close(self) -> list[BaseException | None]:
        """Close all backends, and return the error of each."""
        closing = (backend.close() for backend in (*self._made.values(), *self._retired))
        return await asyncio.gather(*closing, *self._tidying, return_exceptions=True)

    def _replace(
        self,
        profiles: Mapping[str, Profile],
        warm_idle_s: float,
        changed: Iterable[str],
        made: Mapping[str, ExecutionBackend],
    ) -> None:
        self.profiles, self._warm_idle_s = profiles, warm_idle_s
        for name in changed:
            self._retire(name)
        self._made |= made
        self._begin_warm(name for name in profiles if name not in self._warm)

    def _make_checked(self, name: str, profile: Profile) -> ExecutionBackend:
        try:
            return self._make(self.factories[profile.backend], profile)
        except Exception as error:
            problem = f"profiles.{name}: the backend {profile.backend} cannot be made: {error!r}"
            raise ConfigurationError(problem) from error

    def _begin_warm(self, names: Iterable[str]) -> None:
        for name in names:
            profile = self.profiles[name]
            if not profile.warm or profile.backend not in self.factories:
                continue
            try:
                self._begin_warm_one(name)
            except Exception:
                log.exception("no program is kept ready: the backend failed", extra={"profile": name})

    def _begin_warm_one(self, name: str) -> None:
        if isinstance(backend := self.backend(name), WarmBackend):
            self._warm[name] = backend
            backend.keep_warm(self._warm_idle_s)

    def _retire(self, name: str) -> None:
        if backend := self._made.pop(name, None):
            self._retired.add(backend)
        if warm := self._warm.pop(name, None):
            self._tidy(warm.end_warm())

    def _tidy(self, work: Coroutine[Any, Any, None]) -> None:
        task = begin(work)
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)


def _with_built_in(profiles: Mapping[str, Profile], sandbox: SandboxPolicy) -> dict[str, Profile]:
    return {**{name: attrs.evolve(profile, sandbox=sandbox) for name, profile in BUILT_IN.items()}, **profiles}
