"""The Runtime: the public face of the core, for the daemon and for programs that embed one."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import attrs

from runtimed.core.clock import ExpiryClock, SteadyClock
from runtimed.core.engine.backend_client import BackendClient
from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.sequencer import EventSubscriber, Sequencer
from runtimed.core.engine.worker_registry import WorkerFilter, WorkerRegistry
from runtimed.core.limits import AT_START, Limits, TenantLimits
from runtimed.core.ports import Backup, Clock, ExecutionBackend, ProfileSource, Store, WorkspaceHost
from runtimed.core.services.admission import Admission
from runtimed.core.services.bundles import Bundles
from runtimed.core.services.creations import Creations
from runtimed.core.services.deletion import Deletion
from runtimed.core.services.diagnostics import Diagnostics
from runtimed.core.services.drain import Draining
from runtimed.core.services.idempotency import Idempotency
from runtimed.core.services.inputs import Inputs
from runtimed.core.services.lifecycle import Lifecycle, Restore
from runtimed.core.services.queries import Queries
from runtimed.core.services.queue_dispatcher import DispatchFactory, PendingDispatches, QueueDispatcher
from runtimed.core.services.quotas import Quotas
from runtimed.core.services.retention import Retention
from runtimed.core.services.statistics import Statistics
from runtimed.core.services.tokens import TokenListener, Tokens
from runtimed.core.services.transcript_cache import TranscriptCache
from runtimed.core.state import decisions
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, EncodedEvent, EventPage, Gap, StoredState, Worker
from runtimed.errors import InvalidWorkerId, RuntimedError, RuntimeStopped, StoreFull, WorkspaceNotFound
from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary, HostCheck, ProfileCheck
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef
from runtimed.model.interaction import InteractionAck, LifecycleAck, WorkerInput
from runtimed.model.permission import Permission, PermissionAnswer, PermissionResolution, WorkerPermission
from runtimed.model.principal import ADMIN, Principal, Verb
from runtimed.model.profile import HostSandbox, ProfileSummary, Sandbox
from runtimed.model.runtime import Drain, RuntimeEvent, RuntimeEventKind, RuntimeSummary, StoreCheck
from runtimed.model.token import CreateTokenRequest, NewToken, Token
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.worker import BundleReference, CreateWorkerRequest, WorkerDetail, WorkerSummary
from runtimed.model.workspace import Workspace, WorkspaceDiff

DEFAULT_REQUEST = CreateWorkerRequest()
ALL_WORKERS = WorkerFilter()
NO_SANDBOX = HostSandbox("off", "none", "host", ())
"""How Workers are confined where nothing knows profiles: not at all."""

CUT = "the daemon ended during the run"
SETTLE_S = 2.0
"""How long `close` waits for output that the store has not taken yet. A full store may never take it."""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class _Parts:
    """The parts of a started Runtime."""

    runtime_id: RuntimeId
    gaps: Sequence[Gap]
    admission: Admission
    sequencer: Sequencer
    registry: WorkerRegistry
    diagnostics: Diagnostics
    bundles: Bundles
    queue: QueueDispatcher
    lifecycle: Lifecycle
    deletion: Deletion
    inputs: Inputs
    queries: Queries
    statistics: Statistics
    creations: Creations
    idempotency: Idempotency
    tokens: Tokens
    draining: Draining


class Runtime:
    """Hosts Workers: it takes requests, keeps a transcript and an event log of each, and has a backend run them.

    The Runtime owns its store and its backend from `start` to `close`. Every method may raise RuntimeStopped,
    StatePoisoned or a StoreError besides what it names; one that takes a WorkerRef also WrongRuntime and
    WorkerNotFound. What a method has returned is as durable as the store promises. Not thread-safe: use it on the
    event loop that started it.

    A method takes the `principal` on whose behalf it is called; without one it is called for the admin, who has full
    access. A client whose token has a tenant or labels sees and changes only Workers that these leave it: any other
    one raises WorkerNotFound, as if it did not exist. Whether the principal's role permits the call is for the caller
    to check. A method that changes something logs the principal at debug level. The methods without a `principal` are
    for readers that have called `check_visible`, as the feed does.
    """

    def __init__(
        self,
        store: Store,
        backend: ExecutionBackend | None = None,
        *,
        workspaces: WorkspaceHost | None = None,
        runtime_id: str | None = None,
        display_name: str | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
        restore: Restore = "lazy",
        profiles: ProfileSource | None = None,
        tenants: Mapping[str, TenantLimits] | None = None,
        drain_s: float = 0.0,
    ) -> None:
        """Make a Runtime. It does nothing until `start`.

        Args:
            store: Keeps its data.
            backend: Runs its Workers; None for a Runtime whose Workers nothing runs.
            workspaces: Knows the workspaces of its Workers; None if they have none.
            runtime_id: Its id; None takes that of the store, or generates one.
            display_name: A name for people.
            limits: Its limits; None for the defaults.
            clock: The time of events; None for the machine's clock.
            restore: Which Workers are restored without a request.
            profiles: Tells clients what can run a Worker; None if nothing does.
            tenants: The limits of tenants, by name; None for no limits.
            drain_s: How long runs may go on after `drain`, in seconds.
        """
        self.limits = limits or Limits()
        self.display_name = display_name
        self.drain_s = drain_s
        self._store = store
        self._backend = BackendClient(backend)
        self._workspaces = workspaces
        self._wanted_id = RuntimeId(runtime_id) if runtime_id is not None else None
        self._clock = clock or SteadyClock()
        self._expiry_clock = clock or ExpiryClock()
        self._restore = restore
        self._profiles = profiles
        self.quotas = Quotas(tenants or {})
        self._parts: _Parts | None = None
        self._closing: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._retention: Retention | None = None
        self._retaining: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[StoreCheck] | None = None

    async def start(self) -> None:
        """Open the store and load its Workers. Runs that the end of the last process cut are closed.

        Raises:
            StartError: The store cannot be opened.
            RuntimeStopped: This Runtime was started before.
        """
        if self._parts is not None:
            raise RuntimeStopped
        try:
            state = await self._store.open(self._wanted_id)
        except BaseException:
            await self._store.close()
            raise
        self._parts = parts = self._assemble(state)
        try:
            await self._adopt(state)
            await self._record("runtime_started")
        except BaseException:
            await self.close()
            raise
        for name in state.deleted:
            parts.deletion.purge(name)
        self._retention = retention = Retention(
            self._store,
            parts.sequencer,
            parts.registry,
            parts.diagnostics,
            self.limits,
            self._clock,
            self.quotas,
            parts.deletion.purged,
        )
        parts.sequencer.subscribe(retention)
        loop = asyncio.get_running_loop()
        self._retaining = loop.create_task(retention.run(state.marks))
        self._restoring = loop.create_task(parts.lifecycle.restore_all(self._to_restore()))

    def _assemble(self, state: StoredState) -> _Parts:
        store, backend, limits, admission = self._store, self._backend, self.limits, Admission()
        sequencer = Sequencer(store, self._clock, state, limits.max_idempotency_keys)
        idempotency = Idempotency(sequencer.idempotency, self._clock)
        registry = WorkerRegistry(state.runtime_id, state.damaged)
        diagnostics = Diagnostics(state.diagnostics)
        transcripts = TranscriptCache(limits.transcript_cache_bytes)
        dispatches, pending = DispatchFactory(), PendingDispatches()
        queue = QueueDispatcher(store, backend, admission, dispatches, pending)
        lifecycle = Lifecycle(
            state.runtime_id,
            store,
            backend,
            self._clock,
            limits,
            sequencer,
            registry,
            diagnostics,
            admission,
            self.quotas,
            partial(_make_mailbox, sequencer, queue),
            state.worker_number,
        )
        lazy = self._restore != "never"
        inputs = Inputs(
            registry, backend, limits, admission, lifecycle, queue, dispatches, pending, idempotency, lazy=lazy
        )
        bundles = Bundles(sequencer, state.bundles, limits.max_bundles)
        queries = Queries(state.runtime_id, store, limits, sequencer, registry, transcripts)
        return _Parts(
            runtime_id=state.runtime_id,
            gaps=state.gaps,
            admission=admission,
            sequencer=sequencer,
            registry=registry,
            diagnostics=diagnostics,
            bundles=bundles,
            queue=queue,
            lifecycle=lifecycle,
            deletion=Deletion(
                store, backend, self._workspaces, sequencer, registry, diagnostics, transcripts, admission, lifecycle
            ),
            inputs=inputs,
            queries=queries,
            statistics=Statistics(store, registry, lifecycle),
            creations=Creations(state.runtime_id, lifecycle, inputs, bundles, registry, queries, idempotency),
            idempotency=idempotency,
            tokens=Tokens(sequencer, self._expiry_clock, admission, state.tokens, limits.max_tokens),
            draining=Draining(admission, sequencer, registry, lifecycle, queue, self._clock),
        )

    async def _adopt(self, state: StoredState) -> None:
        """Load the Workers. If the store is full, their cut runs are closed once it has space."""
        parts, closing = self._started, []
        for worker in state.workers:
            activity = state.activities.get(worker.worker_id, Activity(worker.activity))
            mailbox = _make_mailbox(parts.sequencer, parts.queue, worker, activity)
            parts.registry.add(mailbox)
            cut = activity.status == "running" or worker.execution.run_state == "busy"
            mailbox.disconnect()
            if (cut or activity.open or worker.awaits_run_end) and not parts.registry.is_damaged(worker.worker_id):
                closing.append(mailbox.submit(partial(decisions.lose_execution, why=CUT, cut=cut), keep=True))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, StoreFull):
                raise outcome

    def _to_restore(self) -> list[Mailbox]:
        """Return the Workers to restore without a request: those with queued inputs, or all."""
        if self._restore == "never" or not self._backend.is_attached:
            return []
        registry = self._started.registry
        running = [mailbox for mailbox in registry if mailbox.worker.status == "running"]
        return [
            mailbox
            for mailbox in running
            if (mailbox.worker.queued or self._restore == "eager")
            and not registry.is_damaged(mailbox.worker.worker_id)
        ]

    async def _record(self, kind: RuntimeEventKind) -> None:
        """Store a runtime event about the Runtime itself. It is left out if the disk is full."""
        sequencer = self._started.sequencer
        change = Change(runtime_events=(sequencer.runtime_event(kind),))
        with contextlib.suppress(StoreFull):
            await sequencer.commit_and_apply(change, lambda: None)

    def set_limits(self, limits: Limits) -> None:
        """Take other limits from now on, except for those in AT_START, which stay as they are.

        Limits of what a backend emits hold for Workers that are spawned from now on.
        """
        kept = {name: getattr(self.limits, name) for name in AT_START}
        self.limits = attrs.evolve(limits, **kept)
        parts = self._started
        parts.inputs.limits = parts.lifecycle.limits = parts.queries.limits = self.limits
        if self._retention is not None:
            self._retention.set_limits(self.limits)

    def drain(self, *, principal: Principal = ADMIN) -> Drain:
        """Take no new Workers, inputs and restores. Runs may go on for `drain_s`; whoever owns the Runtime closes it.

        Queued inputs stay queued, and run after the next start. A repeat changes nothing.

        Returns:
            The runs that go on, and until when.
        """
        _log_command("drain", principal)
        parts = self._open
        if self._restoring is not None:
            self._restoring.cancel()
        return parts.draining.begin(self.drain_s)

    async def drain_begun(self) -> None:
        """Wait for the first call of `drain`."""
        await self._started.admission.draining.wait()

    async def drained(self) -> None:
        """Wait until no run is left after `drain`, or `drain_s` are over."""
        await self.drain_begun()
        await self._started.draining.over()

    async def close(self) -> None:
        """End what runs, finish what was begun, and close the store. Workers stay `running`.

        Does nothing if the Runtime was not started. May be called again.
        """
        if self._parts is None:
            return
        if self._closing is None:
            self._parts.admission.close()
            for mailbox in self._parts.registry:
                mailbox.dispatch_paused = True  # queued inputs stay queued for the next start
            self._closing = asyncio.get_running_loop().create_task(self._close(self._parts))
        await asyncio.shield(self._closing)

    async def _close(self, parts: _Parts) -> None:
        for task in (self._restoring, self._retaining, self._checking):
            await _cancelled(task)
        await parts.lifecycle.close()
        await parts.creations.close()
        await parts.deletion.close()
        await parts.tokens.close()
        await asyncio.gather(parts.queue.close(), parts.inputs.close(), parts.idempotency.close())
        await self._backend.close()
        await self._settle()
        with contextlib.suppress(RuntimedError):
            await self._record("runtime_stopped")
        parts.sequencer.close()
        await self._store.close()

    async def _settle(self) -> None:
        """Commit the output that is queued or collected, and the `run_end`s that are missing."""
        settling = []
        for mailbox in self._started.registry:
            if not mailbox.is_settled:
                mailbox.add_run_end()
                settling.append(mailbox.settled())
        if settling:
            await asyncio.wait(settling, timeout=SETTLE_S)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _started(self) -> _Parts:
        if self._parts is None:
            raise RuntimeStopped
        return self._parts

    @property
    def _open(self) -> _Parts:
        """The parts, for a request that changes something."""
        self._started.admission.check()
        return self._started

    @property
    def runtime_id(self) -> RuntimeId:
        """The id of this Runtime. Raises RuntimeStopped before `start`."""
        return self._started.runtime_id

    @property
    def head(self) -> int:
        """The sequence of the newest published event, 0 for none."""
        return self._started.sequencer.head

    def is_lost(self, sequence: int) -> bool:
        """Return whether a sequence belongs to a life of this Runtime that a restore from a backup has given up."""
        return any(gap.holds(sequence) for gap in self._started.gaps)

    @property
    def poisoned(self) -> asyncio.Future[BaseException]:
        """Resolves to the cause once a write has failed permanently. Nothing is accepted from then on."""
        return self._started.sequencer.poisoned

    @property
    def statistics(self) -> Statistics:
        """The figures that operators watch. Raises RuntimeStopped before `start`."""
        return self._started.statistics

    @property
    def failure(self) -> str | None:
        """Why the Runtime will never work again, or None."""
        is_poisoned = self._parts is not None and self.poisoned.done()
        return "store_failed: a write has failed, and the daemon must be restarted" if is_poisoned else None

    def readiness(self) -> str | None:
        """Return why the Runtime cannot take work now, as `word: explanation`, or None if it can."""
        if self._parts is None:
            return "starting: the store is not open yet"
        if self.failure is not None:
            return self.failure
        if self._parts.admission.is_closed:
            return "closing: the Runtime takes no more work"
        if self._parts.admission.draining.is_set():
            return "draining: the Runtime takes no new work, and ends when no run is left"
        if self._store.is_full:
            return "store_full: the disk is full; free some space"
        return None

    def subscribe(self, subscriber: EventSubscriber) -> None:
        """Publish every event to the subscriber from now on."""
        self._started.sequencer.subscribe(subscriber)

    def unsubscribe(self, subscriber: EventSubscriber) -> None:
        """Stop publishing to the subscriber."""
        self._started.sequencer.unsubscribe(subscriber)

    def reload_tenants(self, tenants: Mapping[str, TenantLimits]) -> None:
        """Replace the limits of tenants. Workers that a tenant has beyond its new limit stay."""
        if tenants != self.quotas.tenants:
            self.quotas.reload(tenants)
            if self._retention is not None:
                self._retention.reload()

    def ref(self, text: str, field: str = "worker_id") -> WorkerRef:
        """Return the reference of the Worker with this id, whether it exists or not.

        Args:
            text: The id.
            field: The name of the parameter, for the error.

        Raises:
            InvalidWorkerId: The id is blank.
        """
        if not text or text.isspace():
            raise InvalidWorkerId(field)
        return WorkerRef(self.runtime_id, WorkerId(text))

    def summary(self, *, principal: Principal = ADMIN) -> RuntimeSummary:
        """Return the Runtime, and the counts of what the client sees."""
        parts, sandbox = self._started, self.sandbox()
        count = parts.registry.count(principal)
        return RuntimeSummary(
            runtime_id=parts.runtime_id,
            display_name=self.display_name,
            backend=self._store.backend,
            store=self._store.kind,
            status="stopped" if parts.admission.is_closed else "running",
            worker_count=count.total(),
            active_worker_count=count["running"],
            stopped_worker_count=count["stopped"],
            cancelled_worker_count=count["cancelled"],
            diagnostic_count=self._count_diagnostics(principal),
            limits=self.limits.view(),
            sandbox=Sandbox(sandbox.mechanism, sandbox.network),
        )

    def diagnostics(self, *, principal: Principal = ADMIN) -> tuple[Diagnostic, ...]:
        """Return the diagnostics of the Runtime, oldest first, then of damaged Workers, then of profiles.

        A client whose token has a tenant or labels sees only those about Workers that it sees.
        """
        parts = self._started
        found = (*parts.diagnostics.diagnostics(), *parts.registry.damage(), *self._of_profiles())
        return found if principal.sees_all else parts.queries.diagnostics(found, principal)

    def _count_diagnostics(self, principal: Principal) -> int:
        parts = self._started
        if not principal.sees_all:
            return len(self.diagnostics(principal=principal))
        return len(parts.diagnostics) + len(parts.registry.damaged) + len(self._of_profiles())

    def _of_profiles(self) -> Sequence[Diagnostic]:
        return () if self._profiles is None else self._profiles.diagnostics()

    @property
    def newest_runtime_event(self) -> int:
        """The id of the newest runtime event, 0 for none."""
        return self._started.sequencer.newest_runtime_event

    async def runtime_events(
        self, after: int = 0, limit: int | None = None, *, principal: Principal = ADMIN
    ) -> Sequence[RuntimeEvent]:
        """Return a page of the runtime events after the id `after`, oldest first. Raises LimitTooLarge.

        A client whose token has a tenant sees those of the tenant's Workers, of deleted ones too. One whose token has
        labels sees those of Workers with these labels that exist.
        """
        return await self._started.queries.runtime_events(after, limit, principal)

    async def check(self, *, principal: Principal = ADMIN) -> StoreCheck:
        """Read all that is stored and report what is wrong with it. Concurrent callers share one check."""
        _log_command("check", principal)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._store.check())
        try:
            return await asyncio.shield(self._checking)
        except asyncio.CancelledError:
            if self._checking.cancelled() and self._started.admission.is_closed:
                raise RuntimeStopped from None
            raise

    def authenticate(self, secret: str) -> Principal | None:
        """Return the client that sends this secret of a token, or None. The first token is not known here."""
        return self._started.tokens.find(secret)

    def watch_tokens(self, listener: TokenListener) -> None:
        """Call the listener with the name of each token that is revoked or expires from now on."""
        self._started.tokens.watch(listener)

    def unwatch_tokens(self, listener: TokenListener) -> None:
        """Stop calling the listener."""
        self._started.tokens.unwatch(listener)

    def tokens(self, principal: Principal = ADMIN) -> tuple[Token, ...]:
        """Return the tokens that grant no more than the principal has, the first one first, the others by name."""
        return self._started.tokens.visible_to(principal)

    async def create_token(self, request: CreateTokenRequest, *, principal: Principal = ADMIN) -> NewToken:
        """Make a token. Its secret is returned and then forgotten.

        An expired token with the same name is replaced.

        Raises:
            InvalidRequest: A field holds what it may not hold, or there are too many tokens.
            TokenExists: A token has the name.
            Forbidden: The token would grant more than the principal has, or live longer, or the principal's token
                was revoked or has expired.
        """
        _log_command("tokens", principal)
        return await self._open.tokens.create(request, principal)

    async def revoke_token(self, name: str, *, principal: Principal = ADMIN) -> None:
        """Revoke a token: it is refused from now on, also after a restart.

        Raises:
            TokenNotFound: There is no such token, or it grants more than the principal has.
            InvalidRequest: It is the first token.
            Forbidden: The principal's token was revoked or has expired.
        """
        _log_command("tokens", principal)
        await self._open.tokens.revoke(name, principal)

    async def backup(self, *, with_folders: bool = False, principal: Principal = ADMIN) -> Backup:
        """Copy all that is stored by now, while the Runtime goes on. The caller closes the backup.

        Args:
            with_folders: Whether the backup also holds the folders of Workers, as they are while it is read.
            principal: Who asks.

        Raises:
            BackupUnavailable: The store has no backup.
            Unavailable: Another backup is open, or changes come too fast.
        """
        _log_command("backup", principal)
        self._started.admission.check()
        return await self._store.backup(with_folders=with_folders)

    def bundles(self, *, principal: Principal = ADMIN) -> tuple[ConfigBundleSummary, ...]:
        """Return the config bundles that the client sees, by id, then by tenant."""
        return self._started.bundles.summaries(principal)

    async def put_bundle(self, bundle: ConfigBundle, *, principal: Principal = ADMIN) -> Availability:
        """Store a config bundle of the client's tenant. One of the same tenant with the same id is replaced.

        Raises:
            RuntimedError: The bundle breaks a rule of section 5 of the v1 contract; each has a code of its own.
        """
        _log_command("bundles", principal)
        return await self._open.bundles.put(bundle, principal.tenant)

    def bundle_availability(self, reference: BundleReference, *, principal: Principal = ADMIN) -> Availability:
        """Return whether exactly this version is held. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        return self._started.bundles.availability(reference, principal)

    async def check_bundle(self, reference: BundleReference, *, principal: Principal = ADMIN) -> HostCheck:
        """Return what this host would do with the Workers of a bundle. Creates nothing.

        Raises:
            ConfigBundleMissing: No bundle has the id.
            ConfigBundleDigestMismatch: The bundle with that id has another digest.
        """
        bundle = self._started.bundles.version(reference, principal).bundle
        profiles = () if self._profiles is None else tuple(await self._profiles.check_bundle(bundle))
        return HostCheck(reference, _are_accepted(profiles), profiles)

    async def profiles(self) -> tuple[ProfileSummary, ...]:
        """Return what can run a Worker, by selector."""
        return tuple(await self._profiles.profiles()) if self._profiles is not None else ()

    def sandbox(self) -> HostSandbox:
        """Return how Workers are confined, unless their profile says otherwise."""
        return NO_SANDBOX if self._profiles is None else self._profiles.sandbox()

    def workers(
        self, wanted: WorkerFilter = ALL_WORKERS, *, principal: Principal = ADMIN
    ) -> tuple[WorkerSummary, ...]:
        """Return the Workers that match and that the client sees, by id."""
        return self._started.queries.workers(wanted, principal)

    def labels(self, worker_id: WorkerId) -> Mapping[str, str]:
        """Return the labels of a Worker; none for an unknown one."""
        return self._started.queries.labels(worker_id)

    def tenant(self, worker_id: WorkerId) -> str | None:
        """Return the tenant of a Worker; None for an unknown one."""
        return self._started.queries.tenant(worker_id)

    def check_visible(self, ref: WorkerRef, principal: Principal) -> None:
        """Raise WorkerNotFound if the client may not know of a Worker. Does nothing for a client that sees all."""
        self._started.registry.check_visible(ref, principal)

    def worker(self, ref: WorkerRef, *, principal: Principal = ADMIN) -> WorkerDetail:
        """Return one Worker."""
        return self._started.queries.worker(ref, principal)

    async def create_worker(
        self,
        request: CreateWorkerRequest = DEFAULT_REQUEST,
        *,
        principal: Principal = ADMIN,
        key: IdempotencyKey | None = None,
    ) -> WorkerDetail:
        """Create a Worker and have it spawned, and give it the initial input of the request.

        It belongs to the tenant of the client's token, and gets the labels of that token besides its own. A failed
        spawn, and a refused initial input, show in the Worker's `execution`.

        Args:
            request: What to create.
            principal: Who asks.
            key: Keeps a repeat of the request from creating another Worker: it returns the Worker of the first.

        Raises:
            Unavailable: The Runtime is draining.
            IdempotencyConflict: The key belongs to another request.
            Forbidden: A label contradicts those of the client's token.
            RateLimited: The client's tenant creates Workers too fast.
            WorkerNotFound: The request is a repeat, and its Worker was deleted since.
            InvalidRequest: A field holds what it may not hold, or a limit is reached.
            InvalidProfileSelector: The request may not select this profile.
            ConfigBundleMissing: No bundle has the id that the request names.
            ConfigBundleDigestMismatch: The bundle with that id has another digest.
        """
        _log_command("create", principal)
        parts = self._started
        with parts.admission.work():
            return await parts.creations.create(request, key, principal)

    async def send_input(
        self,
        ref: WorkerRef,
        message: WorkerInput,
        *,
        principal: Principal = ADMIN,
        key: IdempotencyKey | None = None,
    ) -> InteractionAck:
        """Send an input: the backend accepts it, it is committed, then it runs.

        During a run, `when_busy` of the input may queue it. If nothing runs the Worker, it is restored first, as the
        Runtime's `restore` and the restart policy of its profile allow.

        Args:
            ref: The Worker.
            message: The input.
            principal: Who sends it.
            key: Keeps a repeat of the request from giving the input again: it returns the first acknowledgement.

        Raises:
            Unavailable: The Runtime is draining.
            IdempotencyConflict: The key belongs to another request.
            InvalidRequest: The Worker has ended, the text is blank, or the backend takes no such attachment.
            WorkerExecutionUnavailable: Nothing runs the Worker.
            WorkerExecutionRejected: The backend refused it. As for the others, nothing was stored.
        """
        self._begin_command("input", principal, ref)
        parts = self._started
        with parts.admission.work():
            return await parts.inputs.send(ref, message, key, principal.actor)

    async def interrupt_worker(self, ref: WorkerRef, *, principal: Principal = ADMIN) -> LifecycleAck:
        """End the current run of a Worker, which continues with its queued inputs. Does nothing without a run.

        Raises:
            WorkerExecutionRejected: The backend cannot interrupt it.
        """
        self._begin_command("interrupt", principal, ref)
        return await self._started.inputs.interrupt(ref)

    async def restore_worker(self, ref: WorkerRef, *, principal: Principal = ADMIN) -> WorkerDetail:
        """Have the backend run a Worker again after a restart or a loss. Does nothing if it runs.

        Raises:
            Unavailable: The Runtime is draining.
            InvalidRequest: The Worker has ended.
            WorkerExecutionUnavailable: The backend refused; the Worker's `execution` says why.
        """
        self._begin_command("restore", principal, ref)
        parts = self._started
        with parts.admission.work():
            await parts.lifecycle.restore(parts.registry.mailbox(ref))
        return parts.queries.worker(ref)

    def permissions(self, ref: WorkerRef, *, principal: Principal = ADMIN) -> tuple[Permission, ...]:
        """Return the pending permission requests of a Worker, oldest first."""
        return self._started.registry.mailbox(ref, principal).activity.permissions

    def all_permissions(self, *, principal: Principal = ADMIN) -> tuple[WorkerPermission, ...]:
        """Return the pending permission requests of the Workers that the client sees and that can be served.

        They are ordered by Worker, then oldest first.
        """
        return self._started.queries.permissions(principal)

    async def answer_permission(
        self,
        ref: WorkerRef,
        request_id: str,
        option_id: str | None,
        reason: str | None = None,
        *,
        content: dict[str, Any] | None = None,
        principal: Principal = ADMIN,
    ) -> PermissionResolution:
        """Answer a permission request. The first answer counts.

        Args:
            ref: The Worker.
            request_id: The pending request.
            option_id: The option selected. None accepts a form with its `content`; without that it cancels.
            reason: Why, for the backend and for other clients.
            content: The values of the request's form, by the names of its properties.
            principal: Who answers.

        Raises:
            PermissionNotFound: No such request is pending.
            InvalidRequest: The request does not offer this option, its form does not accept the content, or the
                reason is blank or too long.
        """
        self._begin_command("answer", principal, ref)
        parts = self._open
        answer = PermissionAnswer(option_id, content=content, reason=reason)
        decision = partial(decisions.rule_on_permission, request_id=request_id, answer=answer, by=principal.actor)
        resolution: PermissionResolution = await parts.registry.mailbox(ref).submit(decision)
        return resolution

    async def stop_worker(
        self, ref: WorkerRef, reason: str | None = None, *, principal: Principal = ADMIN
    ) -> LifecycleAck:
        """Stop a Worker gracefully. Does nothing if it has ended."""
        self._begin_command("stop", principal, ref)
        return await self._started.lifecycle.end(ref, "stop", reason, principal.actor)

    async def cancel_worker(
        self, ref: WorkerRef, reason: str | None = None, *, principal: Principal = ADMIN
    ) -> LifecycleAck:
        """Cancel a Worker at once. Does nothing if it has ended."""
        self._begin_command("cancel", principal, ref)
        return await self._started.lifecycle.end(ref, "cancel", reason, principal.actor)

    async def delete_worker(self, ref: WorkerRef, *, force: bool = False, principal: Principal = ADMIN) -> None:
        """Delete a Worker that has ended, or is damaged, and all that is stored of it.

        Args:
            ref: The Worker.
            force: Delete it even if unsaved work in its workspaces is lost with it.
            principal: Who deletes it.

        Raises:
            WorkerRunning: The Worker has not ended.
            WorkspaceDirty: Work in its workspaces would be lost.
        """
        self._begin_command("delete", principal, ref)
        await self._open.deletion.delete(ref, force=force)

    def _begin_command(self, verb: Verb, principal: Principal, ref: WorkerRef) -> None:
        _log_command(verb, principal, ref)
        if not principal.sees_all:
            self.check_visible(ref, principal)

    async def workspaces(self, ref: WorkerRef, *, principal: Principal = ADMIN) -> Sequence[Workspace]:
        """Return the workspaces of a Worker, in the order of its request."""
        self._started.registry.mailbox(ref, principal)
        return () if self._workspaces is None else await self._workspaces.workspaces(ref.worker_id)

    async def workspace_diff(self, ref: WorkerRef, name: str, *, principal: Principal = ADMIN) -> WorkspaceDiff:
        """Return what was changed in a workspace since its base.

        Raises:
            WorkspaceNotFound: The Worker has no such workspace.
            WorkspaceUnavailable: It cannot be told.
        """
        self._started.registry.mailbox(ref, principal)
        if self._workspaces is None:
            raise WorkspaceNotFound(name)
        return await self._workspaces.diff(ref.worker_id, name)

    async def transcript(
        self, ref: WorkerRef, start: int = 0, limit: int | None = None, *, principal: Principal = ADMIN
    ) -> TranscriptProjection:
        """Return a page of the transcript after its first `start` entries. Raises LimitTooLarge."""
        return await self._started.queries.transcript(ref, start, limit, principal)

    async def snapshot(self, ref: WorkerRef, sequence: int | None = None) -> EventEnvelope:
        """Return the state of a Worker right after the event with this sequence, or the newest one.

        Raises:
            CursorExpired: That event is no longer retained.
        """
        return await self._started.queries.snapshot(ref, sequence)

    def newest_sequence(self, ref: WorkerRef) -> int:
        """Return the sequence of the Worker's newest published event, 0 for none."""
        return self._started.registry.mailbox(ref).worker.last_sequence

    def row(self, ref: WorkerRef) -> Worker:
        """Return the Worker's row right after its newest published event."""
        return self._started.registry.mailbox(ref).worker

    def is_starting(self, ref: WorkerRef) -> bool:
        """Return whether the Worker is being created or spawned."""
        parts = self._started
        return parts.lifecycle.is_starting(parts.registry.mailbox(ref))

    async def activity(self, ref: WorkerRef, sequence: int) -> Activity:
        """Return what a Worker was doing right after its newest event up to this sequence.

        Raises:
            CursorExpired: That event is no longer retained.
        """
        return (await self._started.queries.state_at(ref, sequence)).activity

    def is_over(self, ref: WorkerRef) -> bool:
        """Return whether the Worker has ended: no event of it will follow."""
        return self._started.registry.mailbox(ref).worker.status != "running"

    def retained_after(self, ref: WorkerRef) -> int:
        """Return the sequence after which all events of the Worker are retained, 0 if all are."""
        return self._started.registry.mailbox(ref).retained_after

    @property
    def fleet_retained_after(self) -> int:
        """The sequence after which all events of all Workers are retained."""
        return self._started.registry.retained_after

    def tenant_retained_after(self, tenant: str) -> int:
        """Return the sequence after which all events of a tenant's Workers are retained."""
        return self._started.registry.of_tenant(tenant).retained_after

    async def events(self, ref: WorkerRef, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """Return the first page of the Worker's published events after a sequence, oldest first.

        Args:
            ref: The Worker.
            after: The sequence after which to begin.
            limit: At most this many; None for a page as large as an observer reads while it catches up.

        Raises:
            CursorExpired: Events after `after` are no longer retained.
            LimitTooLarge: `limit` is above the limit of the Runtime.
        """
        return await self._started.queries.events(ref, after, limit)

    async def all_events(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """Return the same for all Workers together."""
        return await self._started.queries.all_events(after, limit)

    async def tenant_events(self, tenant: str, after: int, limit: int | None = None) -> EventPage:
        """Return the same for the Workers of one tenant, and how far the page is complete.

        A page may be empty and not the last one: the store looks at few events of others at a time.
        """
        return await self._started.queries.tenant_events(tenant, after, limit)


def _log_command(verb: Verb, principal: Principal, ref: WorkerRef | None = None) -> None:
    if log.isEnabledFor(logging.DEBUG):
        worker_id = ref.worker_id if ref is not None else None
        log.debug("command", extra={"verb": verb, "principal": principal.name, "worker_id": worker_id})


def _are_accepted(profiles: Sequence[ProfileCheck]) -> bool:
    held = all(one.outcome == "enforced" for profile in profiles for one in profile.declarations)
    return bool(profiles) and held and all(profile.problem is None for profile in profiles)


def _make_mailbox(sequencer: Sequencer, queue: QueueDispatcher, worker: Worker, activity: Activity) -> Mailbox:
    return Mailbox(sequencer, worker, activity, queue.begin)


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
