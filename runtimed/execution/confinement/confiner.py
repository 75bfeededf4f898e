"""Decide what confines the programs of each Worker."""

import asyncio
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from runtimed.core.ports import NO_FOLDERS, EventSink, Spawn, WorkingFolders
from runtimed.errors import printable
from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.bubblewrap import USER
from runtimed.execution.confinement.declarations import DeclarationRefused, grant, network_of
from runtimed.execution.confinement.enclosure import LinkFound, Owned, WorkerEnclosure, check_no_link
from runtimed.execution.confinement.judgment import MOUNTS_FOLDER, SECRETS_FOLDER, judge
from runtimed.execution.confinement.no_confinement import NoConfinement
from runtimed.execution.confinement.probe import Mechanisms
from runtimed.execution.confinement.reach import Bind, Confinement, Reach
from runtimed.execution.confinement.references import UnknownReference, references, resolve
from runtimed.execution.confinement.repository_view import repository_binds
from runtimed.execution.confinement.secrets import Secrets, SecretUnavailable
from runtimed.execution.confinement.system_view import NAMES, SYSTEM, folders_of_path, parts_of_program
from runtimed.execution.confinement.users import Users
from runtimed.execution.confinement.ways_out import Network, Wanted
from runtimed.execution.grants import Abilities, Grants
from runtimed.execution.policy import HostResources, SandboxPolicy
from runtimed.execution.processes.confinement import UNCONFINED, ConfinementRefused, SandboxRequest, View
from runtimed.execution.processes.executable import at_home
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspace import HOME, SCRIPTS
from runtimed.model.bundle import Declaration, DeclarationCheck
from runtimed.model.event import SystemItem
from runtimed.model.identity import WorkerId
from runtimed.model.profile import HostSandbox, NetworkReach, Sandbox

SECRETS, MOUNTS = Path(SECRETS_FOLDER), Path(MOUNTS_FOLDER)
TMP = "tmp"
"""The folder in a Worker's own folder that its programs see as /tmp."""

GIT_WITHOUT_SYSTEM = {"GIT_CONFIG_NOSYSTEM": "1"}
"""Git fails over a configuration of the system that is there and cannot be read, as under Landlock."""

NO_MECHANISM = "this host has neither bubblewrap nor Landlock: install bubblewrap"

log = logging.getLogger(__name__)


@attrs.frozen
class HostPaths:
    """Paths of this host.

    Attributes:
        hidden: What no Worker may see: the store, the configuration, tokens, the endpoint file, the daemon's sockets.
        home: The home of the daemon's user.
    """

    hidden: tuple[Path, ...] = ()
    home: Path = attrs.field(factory=Path.home)

    def is_hidden(self, path: Path) -> bool:
        """Return whether a path without links is hidden, or within something hidden."""
        return any(path.is_relative_to(hidden) for hidden in self.hidden)

    def holds_hidden(self, path: Path) -> bool:
        """Return whether something hidden is within a path without links."""
        return any(hidden.is_relative_to(path) for hidden in self.hidden)


class HostConfiner:
    """The Confiner by the mechanisms of this host.

    Args:
        mechanisms: Those of this host.
        paths: Paths of this host.
        users: Gives each Worker a user; None where the daemon is not root.
        network: Gives Workers their ways out.
        resources: What names mean on this host.
        secrets: Gives the values of secrets.
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
        self._mechanisms, self._checks = mechanisms.working, mechanisms.checks
        self._paths = paths
        self._users = users
        self._network = network or Network()
        self._resources = resources or HostResources()
        self._secrets = secrets or Secrets(self._resources.secrets)
        self._enclosures: dict[WorkerId, WorkerEnclosure] = {}
        self._sinks: dict[WorkerId, EventSink] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def of(self, worker_id: WorkerId | None) -> WorkerEnclosure | None:
        return None if worker_id is None else self._enclosures.get(worker_id)

    @property
    def abilities(self) -> Abilities:
        """What this host can hold Workers to."""
        if not self._mechanisms:
            return Abilities()
        best = self._mechanisms[0]
        return Abilities(best.mechanism, best.has_own_files, best.limits_network, landlock.unusable() is None)

    def sandbox(self, policy: SandboxPolicy) -> Sandbox:
        if policy.mode == "off" or not self._mechanisms:
            return UNCONFINED
        return Sandbox(self._mechanisms[0].mechanism, reach_of(policy))

    def check(self, declarations: Sequence[Declaration], policy: SandboxPolicy) -> Sequence[DeclarationCheck]:
        return judge(declarations, policy, self._resources, self.abilities)

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
            await _close(enclosure)
            raise
        self._enclosures[worker_id] = attrs.evolve(enclosure, replaced=replaced)
        self._tell(worker_id, sink)
        return enclosure.sandbox

    def around(self, view: View, command: Sequence[str], env: Mapping[str, str]) -> WorkerEnclosure | None:
        for mechanism in self._mechanisms:
            uid, mapped = self._owner(view) if mechanism.has_own_files else (None, ())
            binds = tuple(_binds_of(self._parts(command, env), view))
            reach = Reach(binds, hidden=self._paths.hidden, uid=uid, mapped=mapped, network="none")
            if mapped or mechanism.problem(reach) is None:  # finding out costs as much as the program itself
                sandbox = Sandbox(mechanism.mechanism, reach.network)
                variables = {} if mechanism.has_own_files else GIT_WITHOUT_SYSTEM
                return WorkerEnclosure(
                    sandbox, mechanism, view.owner, reach, Owned(view.writable, (), uid), variables
                )
        return None

    async def hand_over(self, spare: WorkerId, worker_id: WorkerId) -> None:
        before, enclosure = self._enclosures.pop(worker_id, None), self._enclosures.pop(spare, None)
        if enclosure is not None:
            self._enclosures[worker_id] = enclosure
            self._tell(worker_id, self._sinks.get(worker_id))
        if before is not None:
            await asyncio.to_thread(self.forget, before.folder)
            await _close(before)

    async def release(self, worker_id: WorkerId) -> None:
        self._sinks.pop(worker_id, None)
        if (enclosure := self._enclosures.pop(worker_id, None)) is not None:
            await _close(enclosure)

    def forget(self, folder: Path) -> None:
        if self._users is not None:
            self._users.forget(folder)

    async def close(self) -> None:
        await asyncio.gather(*map(self.release, tuple(self._enclosures)))
        await finish(*self._telling)
        await self._network.close()

    def _find(self, place: "Placement") -> WorkerEnclosure:
        if place.request.policy.mode == "off":
            return _unconfined(place)
        _check_links(place)
        problems = []
        for mechanism in self._mechanisms:
            reach, owned = self._reach(place, has_user=mechanism.has_own_files)
            problem = mechanism.problem(reach) or self._user_problem(place, mechanism)
            if problem is None:
                sandbox = Sandbox(mechanism.mechanism, reach.network)
                variables = self._variables(place, mechanism)
                return WorkerEnclosure(sandbox, mechanism, place.folder, reach, owned, variables)
            problems.append(problem)
        reason = "; ".join(problems) or NO_MECHANISM
        if place.request.policy.mode == "required":
            raise ConfinementRefused(f"sandbox.mode is required: {reason}")
        return attrs.evolve(_unconfined(place), problem=reason)

    def _user_problem(self, place: "Placement", mechanism: Confinement) -> str | None:
        """Return why a Worker of a root daemon can't have a user of its own, if it has to."""
        if place.request.policy.mode != "required" or self._users is None or mechanism.has_own_files:
            return None
        return f"{mechanism.mechanism} gives Workers no users of their own: run the daemon as an ordinary user"

    def _grants(self, request: SandboxRequest, spawn: Spawn | None) -> Grants:
        if spawn is None:
            return Grants(network=network_of(request.policy))
        try:
            return grant(spawn.declarations, spawn.request, request.policy, self._resources, self.abilities)
        except DeclarationRefused as refused:
            raise ConfinementRefused(str(refused)) from None

    async def _secret_files(self, grants: Grants) -> Mapping[Path, str]:
        try:
            return {SECRETS / file: await self._secrets.get(name) for file, name in grants.secrets.items()}
        except SecretUnavailable as error:
            raise ConfinementRefused(str(error)) from None

    async def _with_ways_out(self, enclosure: WorkerEnclosure, place: "Placement") -> WorkerEnclosure:
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

    def _variables(self, place: "Placement", mechanism: Confinement) -> dict[str, str]:
        found = {"TMPDIR": "/tmp" if mechanism.has_own_files else str(place.folder / TMP)}  # noqa: S108 its own
        found |= {} if mechanism.has_own_files else GIT_WITHOUT_SYSTEM
        if place.request.policy.home == "worker":
            found["HOME"] = str(place.folder / HOME)
        if mechanism.has_own_files and self._users is not None:
            found |= {"USER": USER, "LOGNAME": USER}
        return {name: value for name, value in found.items() if name not in place.request.declared}

    def _reach(self, place: "Placement", *, has_user: bool) -> tuple[Reach, Owned]:
        own = place.folder
        uid, mapped = self._user(place) if has_user else (None, ())
        binds = (
            Bind(own / TMP, Path("/tmp"), writable=True, is_tmp=True),  # noqa: S108 the Worker's own
            *(Bind(path, path) for path in self._readable(place, can_hide=has_user)),
            *(Bind(path, path, writable=True) for path in self._writable(place)),
            *self._repositories(place),
            *(Bind(mount.path, MOUNTS / name, mount.writable) for name, mount in place.grants.mounts.items()),
            Bind(own / SCRIPTS, own / SCRIPTS),
            Bind(own / HOME, own / HOME, writable=True),
            *(Bind(path, path, writable=True) for path in place.made),
        )
        reach = Reach(
            binds,
            hidden=self._paths.hidden,
            parent=own.parent,
            fixed=tuple(place.fixed),
            uid=uid,
            mapped=mapped,
            home=own / HOME,
            network=place.grants.network_reach,
            executables=_executables(place),
            secrets=place.secret_files,
        )
        return reach, Owned((own / HOME, own / TMP, *place.made), (own / SCRIPTS,), uid)

    def _readable(self, place: "Placement", *, can_hide: bool) -> Sequence[Path]:
        policy = place.request.policy
        found = self._parts([at_home(word) for word in place.request.command], place.request.env)
        found = [path for path in found if can_hide or not self._paths.holds_hidden(path.resolve())]
        found += [self._checked(path, "sandbox.readonly") for path in policy.readonly]
        found += place.borrowed
        return _outermost([*found, *(NAMES if place.grants.network is None else ())])

    def _parts(self, command: Sequence[str], env: Mapping[str, str]) -> list[Path]:
        """Return what a program needs besides the system."""
        found = [*folders_of_path(env, self._paths.home), *parts_of_program(command, env, self._paths.home)]
        return [path for path in found if not self._paths.is_hidden(path.resolve())]

    def _writable(self, place: "Placement") -> Sequence[Path]:
        policy = place.request.policy
        found = [self._checked(path, "sandbox.writable") for path in policy.writable]
        found += [self._paths.home] if policy.home == "user" else []
        found += [self._checked(path, "workspace_refs") for path in place.shared]
        return _outermost(found)

    def _repositories(self, place: "Placement") -> Iterator[Bind]:
        """Yield the binds of repositories of worktrees. One within a folder that is writable as a whole has none."""
        writable = self._writable(place)
        for repository in place.folders.repositories:
            self._checked(Path(repository.common_dir), "workspace_refs")
            if not _is_within(Path(repository.common_dir), writable):
                yield from repository_binds(repository)

    def _checked(self, path: Path, field: str) -> Path:
        if self._paths.is_hidden(path.resolve()):
            raise ConfinementRefused(f"{field}: {printable(str(path))} belongs to the daemon: no Worker may see it")
        return path

    def _user(self, place: "Placement") -> tuple[int | None, tuple[Path, ...]]:
        """Return the user that programs run as, and the folders of root that it gets as its own."""
        if self._users is None:
            return None, ()
        common = (Path(repository.common_dir) for repository in place.folders.repositories)
        deciding = (*place.shared, *common, *(path for path in place.borrowed if not _is_public(path)))
        owners = {path.stat().st_uid for path in deciding}
        if not owners:
            return self._users.of(place.folder), ()
        if len(owners) > 1:
            raise ConfinementRefused("workspace_refs: the folders belong to several users, and a Worker runs as one")
        owner = owners.pop()
        return (self._users.of(place.folder), tuple(_apart(deciding))) if owner == 0 else (owner, ())

    def _owner(self, view: View) -> tuple[int | None, tuple[Path, ...]]:
        """Return the user that a view belongs to, and what of root it reads."""
        if self._users is None:
            return None, ()
        owner = view.owner.lstat().st_uid
        if owner == 0:
            return None, ()
        read = [path for path in _apart(view.readable) if path.exists() and not _is_within(path, view.writable)]
        return owner, tuple(path for path in read if path.stat().st_uid == 0)


def _unconfined(place: "Placement") -> WorkerEnclosure:
    return WorkerEnclosure(UNCONFINED, NoConfinement(), place.folder, Reach(()), Owned((), (), None), {})


def _check_links(place: "Placement") -> None:
    """Raise ConfinementRefused if a link leads to a workspace by now. No other mechanism makes that better."""
    try:
        for path in place.fixed:
            check_no_link(path)
    except LinkFound as error:
        raise ConfinementRefused(f"workspace_refs: {error}") from None


async def _close(enclosure: WorkerEnclosure) -> None:
    if enclosure.ways_out is not None:
        await enclosure.ways_out.close()


async def _emitted(sink: EventSink, item: SystemItem) -> None:
    try:
        await sink.emit(item)
    except Exception:
        log.exception("cannot tell observers of a refused connection")


def _parted(reference: str) -> tuple[str, str, str]:
    """Return the kind of a reference, a colon, and its name."""
    return reference.partition(":")


@attrs.frozen
class Placement:
    """A Worker that is to be confined.

    Attributes:
        request: What its profile asks for.
        folder: Its own folder.
        folders: Its workspaces.
        grants: What it gets besides.
        secret_files: The contents of its secret files.
    """

    request: SandboxRequest
    folder: Path
    folders: WorkingFolders
    grants: Grants
    secret_files: Mapping[Path, str] = attrs.field(repr=False)

    @property
    def made(self) -> Sequence[Path]:
        """The workspaces within its own folder."""
        return [path for path in self._all() if path.is_relative_to(self.folder)]

    @property
    def shared(self) -> Sequence[Path]:
        """The folders outside of its own that it works in."""
        return [path for path in self._all() if not path.is_relative_to(self.folder)]

    @property
    def borrowed(self) -> Sequence[Path]:
        """The folders of objects that its clones only read."""
        return list(map(Path, self.folders.borrowed))

    @property
    def fixed(self) -> Iterator[Path]:
        """The folders outside of its own that it is shown because of its workspaces."""
        yield from (*self.shared, *self.borrowed)
        for repository in self.folders.repositories:
            yield from (bind.source for bind in repository_binds(repository))

    def _all(self) -> Iterator[Path]:
        cwd = () if self.folders.cwd is None else (self.folders.cwd,)
        yield from map(Path, (*cwd, *self.folders.others.values()))


def reach_of(policy: SandboxPolicy) -> NetworkReach:
    """Return what of a network a policy gives, as clients see it."""
    return policy.network if isinstance(policy.network, str) else "allow-list"


def _executables(place: "Placement") -> tuple[Path, ...] | None:
    """Return the files of the programs that a Worker may execute, and of what loads them; None for all."""
    names, path = place.grants.executables, place.request.env.get("PATH")
    if names is None:
        return None
    found = [shutil.which(name, path=path) for name in names]
    loaders = [loader for folder in SYSTEM for loader in folder.glob("**/ld-linux*.so.*")]
    return tuple(dict.fromkeys(path.resolve() for path in (*map(Path, filter(None, found)), *loaders)))


def _binds_of(parts: Iterable[Path], view: View) -> Iterator[Bind]:
    """Yield what a program of the daemon sees. A path within one that is shown in the same way is left out.

    So a link that a Worker has put into a folder is never what a bind begins with.
    """
    readable = _apart([*parts, *view.readable])
    writable = _apart(view.writable)
    yield from (Bind(path, path) for path in readable if not _is_within(path, writable))
    yield from (Bind(path, path, writable=True) for path in writable)


def _apart(paths: Iterable[Path]) -> Sequence[Path]:
    found: list[Path] = []
    for path in _outermost(list(paths)):
        if not _is_within(path, found):
            found.append(path)
    return found


def _is_within(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_public(folder: Path) -> bool:
    """Return whether every user can read a folder of objects: git makes all of it alike."""
    return folder.stat().st_mode & 0o005 == 0o005


def _outermost(paths: Sequence[Path]) -> Sequence[Path]:
    """Return each path once, the outer ones before the inner ones."""
    return sorted(dict.fromkeys(paths), key=lambda path: len(path.parts))
