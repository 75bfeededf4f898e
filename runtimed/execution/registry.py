"""Choose the backend that runs a Worker."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs

from runtimed.core.ports import Dispatch, EventSink, ExecutionBackend, Spawn, WorkingFolders
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.errors import StoreUnsupported
from runtimed.execution.bundle_checks import check_profile, unconfigured
from runtimed.execution.factories import BackendFactory
from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.confinement import UNCONFINED, ConfinementRefused
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import ECHO, Profile
from runtimed.execution.profile_backends import ProfileBackends
from runtimed.execution.quota_folders import QuotaFolders
from runtimed.execution.session.exit_reason import failure_text
from runtimed.execution.summaries import summarize
from runtimed.execution.tasks import completed, finish
from runtimed.execution.unconfined_profiles import UnconfinedProfiles
from runtimed.execution.workspace import Workspaces, remove_spares
from runtimed.execution.workspaces.catalog import WorkspaceRefused
from runtimed.execution.workspaces.manager import WorkspaceManager
from runtimed.execution.workspaces.preparation import WorkspaceFailed
from runtimed.model.bundle import ConfigBundle, Declaration, ProfileCheck
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId
from runtimed.model.profile import HostSandbox, ProfileSummary, WarmAgents
from runtimed.model.worker import CreateWorkerRequest, ProfileSelector, RuntimeDefaultProfile

MAX_REMOVALS = 2
"""How many folders are removed at the same time. Each uses a thread of the shared pool."""

log = logging.getLogger(__name__)


class ProfileRegistry:
    """The ExecutionBackend of a host: it hands each Worker to the backend of its profile, made when first needed.

    An exception of a backend is logged and answered as `errored`. The registry owns the backends and
    the Supervisor, and closes them.

    Args:
        profiles: Profiles by their selector; they add to the built-in ones or replace them.
        default_profile: The selector of Workers that name none.
        workspaces: Where Workers have folders of their own.
        supervisor: Starts the programs; made here if not given.
        manager: Prepares the workspaces that Workers ask for; without it such Workers are rejected.
        sandbox: How the Workers of the built-in profiles are confined.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        default_profile: str = ECHO,
        *,
        workspaces: Workspaces,
        supervisor: Supervisor | None = None,
        manager: WorkspaceManager | None = None,
        sandbox: SandboxPolicy | None = None,
    ) -> None:
        self._sandbox = sandbox or SandboxPolicy()
        self._default = default_profile
        self._supervisor = supervisor or Supervisor()
        self._workspaces = QuotaFolders(workspaces, self._supervisor.confiner.forget)
        self._manager = manager
        self._in_workspaces: set[WorkerId] = set()
        self._preparing: dict[WorkerId, asyncio.Task[WorkingFolders]] = {}
        self._backends = ProfileBackends(profiles, self._sandbox, self._make_backend)
        self._running: dict[WorkerId, ExecutionBackend] = {}
        self._removing = asyncio.Semaphore(MAX_REMOVALS)
        self._unconfined = UnconfinedProfiles()

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        while True:
            profiles = self._backends.profiles
            answer = await self._spawn(spawn, sink)
            # A profile from before a reload may have been refused for names that mean something else since.
            if answer.outcome != "rejected" or profiles is self._backends.profiles:
                return answer

    async def _spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        await self._backends.find_factories()
        name = self._selected(spawn.request)
        refusal = self._refusal(name, spawn.request)
        if refusal is not None:
            return refusal
        profile, uses_workspaces = self._backends.profiles[name], self._backends.factory(name).workspaces == "used"
        before = self._running.get(spawn.worker_id)  # the adapter knows whether the Worker was lost since
        adapter = self._running[spawn.worker_id] = self._backends.backend(name)
        if before is not None and before is not adapter:
            await _guarded(before.cancel(spawn.worker_id, None))
        if spawn.request.workspace_refs and uses_workspaces:
            answer = await self._spawn_in_workspaces(adapter, profile, spawn, sink)
        else:
            answer = await self._spawn_confined(adapter, profile, spawn, sink)
        if answer.outcome == "accepted":
            self._running[spawn.worker_id] = adapter  # also where an end came too early to find anything
            answer = attrs.evolve(answer, restart=profile.restart, profile=name)
        elif before is not adapter:
            self._running.pop(spawn.worker_id, None)
        self._backends.close_retired(self._running.values())
        return answer

    async def keep_warm(self, idle_s: float) -> None:
        """Start the programs that profiles want to be ready, in the background, until `close`.

        What those of an earlier daemon have left is removed first.

        Args:
            idle_s: How long they wait for a Worker before they are ended, in seconds.
        """
        try:
            await asyncio.to_thread(remove_spares, self._workspaces)
        except (OSError, StoreUnsupported) as error:
            log.warning("cannot remove the folders of earlier warm programs", extra={"reason": error})
        await self._backends.keep_warm(idle_s)

    async def prepare_replacement(
        self,
        profiles: Mapping[str, Profile],
        default_profile: str,
        sandbox: SandboxPolicy,
        warm_idle_s: float,
        *,
        host_changed: bool,
    ) -> Callable[[], None]:
        """Return what has Workers spawned by other profiles from then on.

        Running Workers keep the profile that they were spawned with, also if it is gone. Programs that are kept
        ready are started anew if their profile has changed.

        Args:
            profiles: Profiles by their selector.
            default_profile: The selector of Workers that name none.
            sandbox: How the Workers of the built-in profiles are confined.
            warm_idle_s: How long programs that are kept ready wait for a Worker, in seconds.
            host_changed: What profiles refer to has changed: start all of these programs anew.

        Raises:
            ConfigurationError: The backend of a profile whose programs are kept ready cannot be made.
        """
        replace = await self._backends.prepare_replacement(profiles, sandbox, warm_idle_s, renew_warm=host_changed)

        def apply() -> None:
            before, self._default, self._sandbox = self._backends.profiles, default_profile, sandbox
            replace()
            self._unconfined.forget_changed({} if host_changed else before, self._backends.profiles)
            self._backends.close_retired(self._running.values())

        return apply

    async def profiles(self) -> Sequence[ProfileSummary]:
        """Return all profiles by selector, each with what keeps its Workers from starting."""
        await self._backends.find_factories()
        profiles = self._backends.profiles
        found = await asyncio.to_thread(self._summarize, profiles)
        return [attrs.evolve(one, warm=self._warm(one.selector, profiles[one.selector])) for one in found]

    async def check_bundle(self, bundle: ConfigBundle) -> Sequence[ProfileCheck]:
        """Return what this host would do with the Workers of each profile that a bundle offers."""
        await self._backends.find_factories()
        names = dict.fromkeys(self._name_of(profile.selector) for profile in bundle.profiles)
        return await asyncio.to_thread(self._check_profiles, tuple(names), bundle.declarations)

    def sandbox(self) -> HostSandbox:
        """Return how Workers are confined, unless their profile says otherwise."""
        return self._supervisor.confiner.host_sandbox(self._sandbox)

    def diagnostics(self) -> Sequence[Diagnostic]:
        """Return a diagnostic for each profile whose Workers ran unconfined, although it asks for confinement."""
        return self._unconfined.diagnostics()

    async def _spawn_in_workspaces(
        self, adapter: ExecutionBackend, profile: Profile, spawn: Spawn, sink: EventSink
    ) -> BackendAnswer:
        """Prepare the workspaces of a Worker and spawn it there. They are undone if a new Worker does not start."""
        manager, worker_id = self._manager, spawn.worker_id
        if manager is None:
            return BackendAnswer("rejected", "workspace_refs: this Runtime has no workspaces")
        preparing = self._preparing[worker_id] = asyncio.create_task(self._prepare(manager, profile, spawn))
        try:
            folders = await preparing
        except WorkspaceRefused as refused:
            return BackendAnswer("rejected", str(refused))
        except WorkspaceFailed as failed:
            return BackendAnswer("errored", str(failed))
        except asyncio.CancelledError:
            if not preparing.done():
                await finish(preparing)
            if _is_cancelled():
                raise
            return BackendAnswer("errored", "the Worker was ended before its workspaces were ready")
        finally:
            self._preparing.pop(worker_id, None)
        is_accepted = False
        try:
            spawn = attrs.evolve(spawn, folders=folders)
            answer = await self._spawn_confined(adapter, profile, spawn, manager.saving(worker_id, sink))
            is_accepted = answer.outcome == "accepted"
            self._in_workspaces |= {worker_id} if is_accepted else set()
            return answer
        finally:
            if not is_accepted and spawn.history is None:
                await completed(manager.undo(worker_id))

    async def _spawn_confined(
        self, adapter: ExecutionBackend, profile: Profile, spawn: Spawn, sink: EventSink
    ) -> BackendAnswer:
        """Spawn a Worker in what confines it. That ends with a Worker that does not start."""
        if not self._backends.factories[profile.backend].runs_programs:
            return await _guarded(adapter.spawn(spawn, sink))
        confiner, worker_id = self._supervisor.confiner, spawn.worker_id
        try:
            async with asyncio.timeout(profile.start_timeout_s):
                folder = (await asyncio.to_thread(self._workspaces.worker_folder, worker_id)).absolute()
                sandbox = await confiner.enclose(worker_id, profile.sandbox_request, folder, spawn, sink)
        except ConfinementRefused as refused:
            return BackendAnswer("rejected", f"profile {self._selected(spawn.request)}: {refused}")
        except TimeoutError:
            late = f"its folder was not ready within {profile.start_timeout_s:g} seconds (start_timeout_s)"
            return BackendAnswer("errored", late)
        except (OSError, StoreUnsupported) as error:
            return BackendAnswer("errored", f"its programs could not be started: {failure_text(error)}")
        enclosure = confiner.of(worker_id)
        if enclosure is not None and enclosure.problem is not None:
            self._unconfined.note(self._selected(spawn.request), enclosure.problem)
        is_accepted = False
        try:
            answer = await _guarded(adapter.spawn(spawn, sink))
            is_accepted = answer.outcome == "accepted"
        finally:
            if not is_accepted:
                await completed(confiner.release(worker_id))
        return attrs.evolve(answer, sandbox=sandbox)

    async def _prepare(self, manager: WorkspaceManager, profile: Profile, spawn: Spawn) -> WorkingFolders:
        """Prepare the workspaces of a Worker. They count to the limit of its folder."""
        await asyncio.to_thread(self._workspaces.hold, spawn.worker_id, profile.max_folder_bytes)
        return await manager.prepare(spawn, profile.workspaces)

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        adapter = self._running.get(dispatch.worker_id)
        if adapter is None:
            return BackendAnswer("errored", "nothing runs this Worker")
        return await _guarded(adapter.dispatch(dispatch))

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        if adapter := self._running.get(worker_id):
            _call(adapter.start, worker_id, input_id)

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        if adapter := self._running.get(worker_id):
            _call(adapter.withdraw, worker_id, input_id)

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        adapter = self._running.get(worker_id)
        return BackendAnswer("accepted") if adapter is None else await _guarded(adapter.interrupt(worker_id))

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return await self._end(worker_id, lambda adapter: adapter.stop(worker_id, reason))

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        return await self._end(worker_id, lambda adapter: adapter.cancel(worker_id, reason))

    async def delete(self, worker_id: WorkerId) -> None:
        cut = threading.Event()
        try:
            async with self._removing:
                if self._manager is not None:
                    await self._manager.release(worker_id)
                await self._delete_sessions(worker_id)
                await asyncio.to_thread(self._workspaces.remove_worker_folder, worker_id, cut.is_set)
        except OSError as error:
            fields = {"worker_id": worker_id, "path": error.filename, "reason": error.strerror}
            log.error("cannot remove the folder of a Worker", extra=fields)
            raise OSError(error.errno, f"its folder could not be removed: {error.strerror}") from error
        finally:
            cut.set()

    async def close(self) -> None:
        for error in await self._backends.close():
            if error is not None:
                log.error("an execution backend failed to close", exc_info=error)
        try:
            await asyncio.gather(*(self._save(worker_id) for worker_id in tuple(self._in_workspaces)))
            if self._manager is not None:
                await self._manager.close()
        finally:
            await self._supervisor.close()
            self._running.clear()

    async def _delete_sessions(self, worker_id: WorkerId) -> None:
        """Let backends delete what they keep outside of the Worker's folder."""
        await self._backends.find_factories()
        for adapter in self._backends.with_sessions():
            await adapter.delete(worker_id)

    async def _end(
        self, worker_id: WorkerId, ask: Callable[[ExecutionBackend], Awaitable[BackendAnswer]]
    ) -> BackendAnswer:
        adapter = self._running.get(worker_id)
        if preparing := self._preparing.get(worker_id):
            await finish(preparing)
        if adapter is None:
            return BackendAnswer("accepted")
        try:
            return await _guarded(ask(adapter))
        finally:
            self._running.pop(worker_id, None)
            self._backends.close_retired(self._running.values())
            await self._supervisor.confiner.release(worker_id)
            await self._save(worker_id)

    async def _save(self, worker_id: WorkerId) -> None:
        """Save what a Worker has committed since its last run. Problems are logged, and met again at its deletion."""
        if self._manager is not None and worker_id in self._in_workspaces:
            self._in_workspaces.discard(worker_id)
            await self._manager.save(worker_id)

    def _summarize(self, profiles: Mapping[str, Profile]) -> Sequence[ProfileSummary]:
        return [self._summary(name, profiles[name]) for name in sorted(profiles)]

    def _summary(self, name: str, profile: Profile) -> ProfileSummary:
        factories = self._backends.factories
        factory = factories.get(profile.backend)
        runs_programs = factory is not None and factory.runs_programs
        sandbox = self._supervisor.confiner.sandbox(profile.sandbox) if runs_programs else UNCONFINED
        return summarize(name, profile, factories, sandbox, is_default=name == self._default)

    def _warm(self, name: str, profile: Profile) -> WarmAgents | None:
        return WarmAgents(self._backends.ready(name), profile.warm) if profile.warm else None

    def _check_profiles(self, names: Sequence[str], declarations: Sequence[Declaration]) -> Sequence[ProfileCheck]:
        confiner, profiles, factories = self._supervisor.confiner, self._backends.profiles, self._backends.factories
        return [check_profile(name, profiles.get(name), factories, confiner, declarations) for name in names]

    def _selected(self, request: CreateWorkerRequest) -> str:
        return self._name_of(request.profile)

    def _name_of(self, selector: ProfileSelector) -> str:
        return self._default if isinstance(selector, RuntimeDefaultProfile) else selector.value

    def _refusal(self, name: str, request: CreateWorkerRequest) -> BackendAnswer | None:
        profile = self._backends.profiles.get(name)
        if profile is None:
            return BackendAnswer("rejected", unconfigured(name))
        factory = self._backends.factories.get(profile.backend)
        if factory is None:
            return BackendAnswer("rejected", f"profile {name}: no backend {profile.backend!r} is installed")
        if request.session_config and not factory.takes_session_config:
            return BackendAnswer("rejected", f"session_config: profile {name} runs no agent of the backend acp")
        if request.mcp_servers and not (profile.mcp_from_clients and factory.takes_mcp_servers):
            problem = f"profile {name} takes none from clients: set mcp_from_clients = true in it, or leave them out"
            return BackendAnswer("rejected", f"mcp_servers: {problem}")
        if request.workspace_refs and factory.workspaces == "rejected":
            return BackendAnswer("rejected", f"workspace_refs: profile {name} runs nothing that has workspaces")
        if missing := _missing(profile, request):
            return BackendAnswer("rejected", f"profile {name} needs {missing} when creating the Worker")
        return None

    def _make_backend(self, factory: BackendFactory, profile: Profile) -> ExecutionBackend:
        return factory.make(profile, self._workspaces, self._supervisor)


async def _guarded(answering: Awaitable[BackendAnswer]) -> BackendAnswer:
    try:
        return await answering
    except Exception:
        log.exception("an execution backend failed")
        return BackendAnswer("errored", "the execution backend failed; the daemon's log has the details")


def _is_cancelled() -> bool:
    """Return whether the current task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _call(method: Callable[[WorkerId, str], None], worker_id: WorkerId, input_id: str) -> None:
    try:
        method(worker_id, input_id)
    except Exception:
        log.exception("an execution backend failed")


def _missing(profile: Profile, request: CreateWorkerRequest) -> str:
    """Return the capabilities that a request lacks, as the middle of a sentence, or an empty text."""
    requested = {capability.name for capability in request.requested_capabilities}
    names = [name for name in profile.capabilities if name not in requested]
    if not names:
        return ""
    thing, pronoun = ("the capability", "it") if len(names) == 1 else ("the capabilities", "them")
    return f"{thing} {', '.join(names)}: request {pronoun}"
