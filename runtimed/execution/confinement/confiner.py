"""Decide what confines the programs of each Worker."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from runtimed.core.ports import NO_FOLDERS, EventSink, Spawn
from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.declarations import DeclarationRefused, grant, network_of
from runtimed.execution.confinement.enclosure import Owned, WorkerEnclosure
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.judgment import SECRETS_FOLDER, judge
from runtimed.execution.confinement.no_confinement import NoConfinement
from runtimed.execution.confinement.placement import Placement
from runtimed.execution.confinement.probe import Mechanisms
from runtimed.execution.confinement.reach import Confinement, Reach
from runtimed.execution.confinement.reach_builder import GIT_WITHOUT_SYSTEM, ReachBuilder
from runtimed.execution.confinement.references import UnknownReference, references, resolve
from runtimed.execution.confinement.secrets import Secrets, SecretUnavailable
from runtimed.execution.confinement.users import Users
from runtimed.execution.confinement.ways_out import Network, Wanted
from runtimed.execution.grants import Abilities, Grants
from runtimed.execution.policy import HostResources, SandboxPolicy
from runtimed.execution.processes.confinement import UNCONFINED, ConfinementRefused, Enclosure, SandboxRequest, View
from runtimed.execution.tasks import begin, finish
from runtimed.model.bundle import Declaration, DeclarationCheck
from runtimed.model.event import SystemItem
from runtimed.model.identity import WorkerId
from runtimed.model.profile import HostSandbox, NetworkReach, Sandbox

SECRETS = Path(SECRETS_FOLDER)

NO_MECHANISM = "this host has neither bubblewrap nor Landlock: install bubblewrap"

log = logging.getLogger(__name__)


class HostConfiner:
    """The Confiner by the mechanisms of this host.

    Args:
        mechanisms: Those of this host.
        paths: Paths of this host.
        users: Gives each Worker a user; None where the daemon is not root.
        network: Gives Workers their ways out.
        resources: What names mean on this host.
        secrets: Gives the values of secrets.

    Attributes:
        resources: What names mean on this host, for Workers that are spawned from now on.
    """

    def __init__(
        self,
        mechanisms: Mechanisms,
        paths: HostPaths,
        users: Users | None = None,
        network: Network | None = None,
        resources: HostResources | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.on_release: Callable[[Enclosure], Awaitable[None]] = _nothing
        self._users = users
        self._network = network or Network()
        resources = without_links(resources or HostResources())
        self.replace(mechanisms, paths, resources, secrets or Secrets(resources.secrets))
        self._enclosures: dict[WorkerId, WorkerEnclosure] = {}
        self._sinks: dict[WorkerId, EventSink] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def replace(self, mechanisms: Mechanisms, paths: HostPaths, resources: HostResources, secrets: Secrets) -> None:
        """Confine Workers that are spawned from now on in another way. What encloses the others stays as it is.

        Args:
            mechanisms: Those of this host.
            paths: Paths of this host.
            resources: What names mean on this host, without links.
            secrets: Gives the values of secrets.
        """
        self._mechanisms, self._checks = mechanisms.working, mechanisms.checks
        self._reaches = ReachBuilder(paths, self._users)
        self.resources = resources
        self._secrets = secrets

    def of(self, worker_id: WorkerId | None) -> WorkerEnclosure | None:
        return None if worker_id is None else self._enclosures.get(worker_id)

    @property
    def abilities(self) -> Abilities:
        """What this host can hold Workers to."""
        if not self._mechanisms:
            return Abilities()
        best = self._mechanisms[0]
        return Abilities(best.mechanism, best.has_own_files, best.limits_network, landlock.unusable() is None)

    @property
    def gateway_requests(self) -> Mapping[tuple[str, int], int]:
        """How many requests gateways have answered, by the name of the gateway and the status of the response."""
        return self._network.gateway_requests

    def sandbox(self, policy: SandboxPolicy) -> Sandbox:
        if policy.mode == "off" or not self._mechanisms:
            return UNCONFINED
        return Sandbox(self._mechanisms[0].mechanism, reach_of(policy))

    def check(self, declarations: Sequence[Declaration], policy: SandboxPolicy) -> Sequence[DeclarationCheck]:
        return judge(declarations, policy, self.resources, self.abilities)

    def host_sandbox(self, policy: SandboxPolicy) -> HostSandbox:
        sandbox = self.sandbox(policy)
        return HostSandbox(policy.mode, sandbox.mechanism, sandbox.network, self._checks)

    async def enclose(
        self,
        worker_id: WorkerId,
        request: SandboxRequest,
        folder: Path,
        spawn: Spawn | None = None,
        sink: EventSink | None = None,
    ) -> Sandbox:
        await self.release(worker_id)
        grants = self._grants(request, spawn)
        folders = NO_FOLDERS if spawn is None else spawn.folders
        place = Placement(request, folder, folders, grants, await self._secret_files(grants))
        enclosure = await asyncio.to_thread(self._find, place)
        await asyncio.to_thread(enclosure.prepare_made, tuple(place.made))
        enclosure = await self._with_ways_out(enclosure, place)
        try:
            replaced = await self._replaced(request.declared, enclosure)
        except BaseException:
            await self._close(enclosure)
            raise
        self._enclosures[worker_id] = attrs.evolve(enclosure, replaced=replaced)
        self._tell(worker_id, sink)
        return enclosure.sandbox

    def around(self, view: View, command: Sequence[str], env: Mapping[str, str]) -> WorkerEnclosure | None:
        for mechanism in self._mechanisms:
            reach, owned = self._reaches.of_view(view, command, env, has_user=mechanism.has_own_files)
            if reach.mapped or mechanism.problem(reach) is None:  # finding out costs as much as the program itself
                sandbox = Sandbox(mechanism.mechanism, reach.network)
                variables = {} if mechanism.has_own_files else GIT_WITHOUT_SYSTEM
                return WorkerEnclosure(sandbox, mechanism, view.owner, reach, owned, variables)
        return None

    async def hand_over(self, spare: WorkerId, worker_id: WorkerId) -> None:
        before, enclosure = self._enclosures.pop(worker_id, None), self._enclosures.pop(spare, None)
        if enclosure is not None:
            self._enclosures[worker_id] = enclosure
            self._tell(worker_id, self._sinks.get(worker_id))
        if before is not None:
            await asyncio.to_thread(self.forget, before.folder)
            await self._close(before)

    async def release(self, worker_id: WorkerId) -> None:
        self._sinks.pop(worker_id, None)
        if (enclosure := self._enclosures.pop(worker_id, None)) is not None:
            await self._close(enclosure)

    def forget(self, folder: Path) -> None:
        if self._users is not None:
            self._users.forget(folder)

    async def close(self) -> None:
        await asyncio.gather(*map(self.release, tuple(self._enclosures)))
        await finish(*self._telling)
        await self._network.close()

    async def _close(self, enclosure: WorkerEnclosure) -> None:
        await self.on_release(enclosure)
        if enclosure.ways_out is not None:
            await enclosure.ways_out.close()

    def _find(self, place: Placement) -> WorkerEnclosure:
        if place.request.policy.mode == "off":
            return _unconfined(place)
        place.check_links()
        problems = []
        for mechanism in self._mechanisms:
            reach, owned = self._reaches.of_worker(place, has_user=mechanism.has_own_files)
            problem = mechanism.problem(reach) or self._user_problem(place, mechanism)
            if problem is None:
                sandbox = Sandbox(mechanism.mechanism, reach.network)
                variables = self._reaches.variables(place, mechanism)
                return WorkerEnclosure(sandbox, mechanism, place.folder, reach, owned, variables)
            problems.append(problem)
        reason = "; ".join(problems) or NO_MECHANISM
        if place.request.policy.mode == "required":
            raise ConfinementRefused(f"sandbox.mode is required: {reason}")
        if place.is_held:
            raise ConfinementRefused(f"a declaration of the config bundle or a mount cannot be enforced: {reason}")
        return attrs.evolve(_unconfined(place), problem=reason)

    def _user_problem(self, place: Placement, mechanism: Confinement) -> str | None:
        """Return why a Worker of a root daemon can't have a user of its own, if it has to."""
        if place.request.policy.mode != "required" or self._users is None or mechanism.has_own_files:
            return None
        return f"{mechanism.mechanism} gives Workers no users of their own: run the daemon as an ordinary user"

    def _grants(self, request: SandboxRequest, spawn: Spawn | None) -> Grants:
        if spawn is None:
            return Grants(network=network_of(request.policy))
        try:
            return grant(spawn.declarations, spawn.request, request.policy, self.resources, self.abilities)
        except DeclarationRefused as refused:
            raise ConfinementRefused(str(refused)) from None

    async def _secret_files(self, grants: Grants) -> Mapping[Path, str]:
        try:
            return {SECRETS / file: await self._secrets.get(name) for file, name in grants.secrets.items()}
        except SecretUnavailable as error:
            raise ConfinementRefused(str(error)) from None

    async def _with_ways_out(self, enclosure: WorkerEnclosure, place: Placement) -> WorkerEnclosure:
        """Open what the programs reach instead of a network, and the gateways that the profile names."""
        policy = None if enclosure.reach.network == "host" else place.grants.network
        gateways = {name for kind, _, name in map(_parted, references(place.request.declared)) if kind != "secret"}
        git = tuple(place.grants.git.values())
        is_inside = enclosure.confinement.has_own_files and enclosure.reach.network != "host"
        ways_out = self._network.ways_out(Wanted(policy, tuple(sorted(gateways)), git, is_on_host=not is_inside))
        if ways_out is None:
            return enclosure
        if not is_inside:
            await ways_out.open_on_host()
        reach = attrs.evolve(enclosure.reach, has_listeners=is_inside, ports=() if is_inside else ways_out.ports)
        variables = {**enclosure.variables, **ways_out.variables(place.request.env)}
        return attrs.evolve(enclosure, reach=reach, variables=variables, ways_out=ways_out)

    async def _replaced(
        self, declared: Mapping[str, str], enclosure: WorkerEnclosure
    ) -> Mapping[str, tuple[str, str]]:
        """Return the variables whose values refer to something, each with the reference and what it stands for."""
        values = {} if enclosure.ways_out is None else enclosure.ways_out.values
        try:
            for reference in references(declared):
                kind, _, name = _parted(reference)
                if kind == "secret":
                    values[reference] = await self._secrets.get(name)
            found = resolve(declared, values)
        except (SecretUnavailable, UnknownReference) as error:
            raise ConfinementRefused(str(error)) from None
        return {name: (text, found[name]) for name, text in declared.items() if found[name] != text}

    def _tell(self, worker_id: WorkerId, sink: EventSink | None) -> None:
        """Have what is refused to a Worker told to its observers."""
        ways_out = self._enclosures[worker_id].ways_out
        if sink is None:
            return
        self._sinks[worker_id] = sink
        if ways_out is not None:
            ways_out.report = partial(self._emit, sink)

    def _emit(self, sink: EventSink, item: SystemItem) -> None:
        task = begin(_emitted(sink, item))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


def _unconfined(place: Placement) -> WorkerEnclosure:
    return WorkerEnclosure(UNCONFINED, NoConfinement(), place.folder, Reach(()), Owned((), (), None), {})


def without_links(resources: HostResources) -> HostResources:
    """Return the resources with the paths that their mounts have now: Workers may write beside one later. Blocks."""
    mounts = {name: attrs.evolve(mount, path=mount.path.resolve()) for name, mount in resources.mounts.items()}
    return attrs.evolve(resources, mounts=mounts)


async def _nothing(_enclosure: Enclosure) -> None:
    """Do nothing: nobody owns the programs."""


async def _emitted(sink: EventSink, item: SystemItem) -> None:
    try:
        await sink.emit(item)
    except Exception:
        log.exception("cannot tell observers of a refused connection")


def _parted(reference: str) -> tuple[str, str, str]:
    """Return the kind of a reference, a colon, and its name."""
    return reference.partition(":")


def reach_of(policy: SandboxPolicy) -> NetworkReach:
    """Return what of a network a policy gives, as clients see it."""
    return policy.network if isinstance(policy.network, str) else "allow-list"
