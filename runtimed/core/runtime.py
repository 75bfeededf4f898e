"""The Runtime: the public face of the core, for the daemon and for programs that embed one."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

from runtimed.core.clock import SteadyClock
from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.sequencer import EventSubscriber, Sequencer
from runtimed.core.engine.worker_registry import WorkerFilter, WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.ports import Clock, ExecutionBackend, Store
from runtimed.core.services.bundles import Bundles
from runtimed.core.services.context import Context
from runtimed.core.services.diagnostics import Diagnostics
from runtimed.core.services.inputs import Inputs
from runtimed.core.services.lifecycle import Lifecycle, Restore
from runtimed.core.services.queries import Queries
from runtimed.core.services.retention import Retention
from runtimed.core.services.transcript_cache import TranscriptCache
from runtimed.core.state import decisions
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, EncodedEvent, StoredState
from runtimed.errors import InvalidWorkerId, RuntimedError, RuntimeStopped, StoreFull
from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef
from runtimed.model.interaction import InteractionAck, LifecycleAck, WorkerInput
from runtimed.model.permission import Permission, PermissionResolution, WorkerPermission
from runtimed.model.runtime import RuntimeEvent, RuntimeEventKind, RuntimeSummary, StoreCheck
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.value import value
from runtimed.model.worker import BundleReference, CreateWorkerRequest, WorkerDetail, WorkerSummary

DEFAULT_REQUEST = CreateWorkerRequest()
ALL_WORKERS = WorkerFilter()
CUT = "the daemon ended while it was going on"
SETTLE_S = 2.0
"""How long the end waits for output that the store has not taken yet; a full one may never take it."""


@value
class Parts:
    """What a Runtime is made of from its start on."""

    context: Context
    shelf: Bundles
    lifecycle: Lifecycle
    inputs: Inputs
    reading: Queries


class Runtime:
    """Hosts Workers: takes requests, keeps a transcript and a log of events of each, has a backend run them.

    It owns its store and its backend from `start` to `close`. Every request may raise RuntimeStopped, StatePoisoned
    or a StoreError besides what is named; one that names a Worker also WrongRuntime and WorkerNotFound. What was
    answered is as durable as the store promises. Not thread-safe: use it on the event loop that started it.
    """

    def __init__(
        self,
        store: Store,
        backend: ExecutionBackend | None = None,
        *,
        runtime_id: str | None = None,
        display_name: str | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
        restore: Restore = "lazy",
    ) -> None:
        self.limits = limits or Limits()
        self.display_name = display_name
        self._store = store
        self._backend = backend
        self._wanted_id = RuntimeId(runtime_id) if runtime_id is not None else None
        self._clock = clock or SteadyClock()
        self._restore = restore
        self._parts: Parts | None = None
        self._closing: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._retaining: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[StoreCheck] | None = None

    async def start(self) -> None:
        """Open the store and take over what it holds; runs that the end of an earlier life cut are closed.

        Raises StartError where the store can't be had, RuntimeStopped for a Runtime that was started before.
        """
        if self._parts is not None:
            raise RuntimeStopped
        try:
            state = await self._store.open(self._wanted_id)
        except BaseException:
            await self._store.close()
            raise
        self._parts = parts = self._assemble(state)
        context = parts.context
        try:
            await self._adopt(state)
            await self._tell("runtime_started")
        except BaseException:
            await self.close()
            raise
        for name in state.deleted:
            parts.lifecycle.purge(name)
        retention = Retention(
            self._store,
            context.sequencer,
            context.registry,
            context.diagnostics,
            self.limits,
            self._clock,
            parts.lifecycle.purged,
        )
        context.sequencer.subscribe(retention)
        loop = asyncio.get_running_loop()
        self._retaining = loop.create_task(retention.run(state.marks))
        self._restoring = loop.create_task(parts.lifecycle.restore_all(self._wanted_back()))

    def _assemble(self, state: StoredState) -> Parts:
        context = Context(
            runtime_id=state.runtime_id,
            store=self._store,
            backend=self._backend,
            clock=self._clock,
            limits=self.limits,
            sequencer=Sequencer(self._store, self._clock, state),
            registry=WorkerRegistry(state.runtime_id, state.damaged),
            diagnostics=Diagnostics(state.diagnostics),
            pages=TranscriptCache(self.limits.transcript_cache_bytes),
        )
        lifecycle = Lifecycle(context, state.worker_number)
        inputs = Inputs(context, lifecycle, lazy=self._restore != "never")
        context.on_offer = inputs.give
        shelf = Bundles(context.sequencer, state.bundles, self.limits.max_bundles)
        return Parts(context, shelf, lifecycle, inputs, Queries(context))

    async def _adopt(self, state: StoredState) -> None:
        """Take over the Workers. A store that is full closes their cut runs later, as soon as it has room."""
        closing = []
        for worker in state.workers:
            activity = state.activities.get(worker.worker_id, Activity(worker.activity))
            mailbox = self._context.mailbox(worker, activity)
            self._registry.add(mailbox)
            cut = activity.status == "running" or worker.execution.run_state == "busy"
            mailbox.disconnect()
            if (cut or activity.open or worker.awaits_run_end) and not self._registry.is_damaged(worker.worker_id):
                closing.append(mailbox.submit(partial(decisions.lose_execution, why=CUT, cut=cut), keep=True))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, StoreFull):
                raise outcome

    def _wanted_back(self) -> list[Mailbox]:
        """The Workers to bring back without being asked: with inputs that wait, or all."""
        if self._restore == "never" or self._backend is None:
            return []
        running = [mailbox for mailbox in self._registry if mailbox.worker.status == "running"]
        return [
            mailbox
            for mailbox in running
            if (mailbox.worker.queued or self._restore == "eager")
            and not self._registry.is_damaged(mailbox.worker.worker_id)
        ]

    async def _tell(self, kind: RuntimeEventKind) -> None:
        """Store a runtime event of the Runtime's own; on a full disk it is left out."""
        sequencer = self._context.sequencer
        change = Change(runtime_events=(sequencer.runtime_event(kind),))
        with contextlib.suppress(StoreFull):
            await sequencer.apply(change, lambda: None)

    async def close(self) -> None:
        """End what runs, finish what was begun, close the store. Workers stay `running`. Harmless when repeated."""
        if self._parts is None:
            return
        if self._closing is None:
            self._parts.context.close()
            self._closing = asyncio.get_running_loop().create_task(self._close(self._parts))
        await asyncio.shield(self._closing)

    async def _close(self, parts: Parts) -> None:
        for task in (self._restoring, self._retaining, self._checking):
            await _cancelled(task)
        await parts.lifecycle.close()
        await parts.inputs.close()
        if self._backend is not None:
            await self._backend.close()
        await self._settle()
        with contextlib.suppress(RuntimedError):
            await self._tell("runtime_stopped")
        parts.context.sequencer.close()
        await self._store.close()

    async def _settle(self) -> None:
        """Store the output that was taken and is still being collected, and the `run_end`s that are missing."""
        waiting = []
        for mailbox in self._registry:
            if not mailbox.is_settled:
                mailbox.add_run_end()
                waiting.append(mailbox.settled())
        if waiting:
            await asyncio.wait(waiting, timeout=SETTLE_S)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _started(self) -> Parts:
        if self._parts is None:
            raise RuntimeStopped
        return self._parts

    @property
    def _context(self) -> Context:
        return self._started.context

    @property
    def _registry(self) -> WorkerRegistry:
        return self._context.registry

    @property
    def _open(self) -> Parts:
        """The parts, for a request that changes something."""
        self._context.check_open()
        return self._started

    @property
    def runtime_id(self) -> RuntimeId:
        """Who this is. Raises RuntimeStopped before the start, as everything here does that needs the store."""
        return self._context.runtime_id

    @property
    def head(self) -> int:
        """The sequence of the newest event that was published, 0 for none."""
        return self._context.sequencer.head

    @property
    def poisoned(self) -> asyncio.Future[BaseException]:
        """Done, with the cause, once a write has failed for good: nothing is accepted any more."""
        return self._context.sequencer.poisoned

    def subscribe(self, subscriber: EventSubscriber) -> None:
        """Tell the listener of every event from now on."""
        self._context.sequencer.subscribe(subscriber)

    def unsubscribe(self, subscriber: EventSubscriber) -> None:
        """Tell the listener no more."""
        self._context.sequencer.unsubscribe(subscriber)

    def ref(self, text: str, field: str = "worker_id") -> WorkerRef:
        """The full address of the Worker with this id, whether it is there or not.

        Raises InvalidWorkerId for a blank text; the message names the field.
        """
        if not text or text.isspace():
            raise InvalidWorkerId(field)
        return WorkerRef(self.runtime_id, WorkerId(text))

    def summary(self) -> RuntimeSummary:
        """The Runtime and its counts."""
        count = self._registry.count()
        return RuntimeSummary(
            runtime_id=self.runtime_id,
            display_name=self.display_name,
            backend=self._store.backend,
            store=self._store.kind,
            status="stopped" if self._context.closing else "running",
            worker_count=len(self._registry),
            active_worker_count=count["running"],
            stopped_worker_count=count["stopped"],
            cancelled_worker_count=count["cancelled"],
            diagnostic_count=len(self._context.diagnostics) + len(self._registry.damaged),
            limits=self.limits.view(),
        )

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What the Runtime has had to remark, oldest first; then the Workers that can't be served."""
        return self._context.diagnostics.diagnostics() + self._registry.damage()

    @property
    def newest_runtime_event(self) -> int:
        """The id of the newest runtime event, 0 for none."""
        return self._context.sequencer.newest_runtime_event

    async def runtime_events(self, after: int = 0, limit: int | None = None) -> Sequence[RuntimeEvent]:
        """A page of what happened to the Runtime, behind the event with the id `after`. Raises LimitTooLarge."""
        return await self._store.read_runtime_events(after, self.limits.event_page.at_most(limit))

    async def check(self) -> StoreCheck:
        """Read all that is stored and tell what is wrong with it; callers at the same time share one check."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._store.check())
        try:
            return await asyncio.shield(self._checking)
        except asyncio.CancelledError:
            if self._checking.cancelled() and self._context.closing:
                raise RuntimeStopped from None
            raise

    def bundles(self) -> tuple[ConfigBundleSummary, ...]:
        """The bundles held, by id."""
        return self._started.shelf.summaries()

    async def put_bundle(self, bundle: ConfigBundle) -> Availability:
        """Keep a bundle; one with the same id is replaced. Raises what the checks of contract section 5 name."""
        return await self._open.shelf.put(bundle)

    def bundle_availability(self, reference: BundleReference) -> Availability:
        """Whether exactly this version is held. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        return self._started.shelf.availability(reference)

    def workers(self, wanted: WorkerFilter = ALL_WORKERS) -> tuple[WorkerSummary, ...]:
        """The Workers that are wanted, by id."""
        return self._started.reading.workers(wanted)

    def labels(self, worker_id: WorkerId) -> Mapping[str, str]:
        """The labels of a Worker; one that there is not has none."""
        return self._started.reading.labels(worker_id)

    def worker(self, ref: WorkerRef) -> WorkerDetail:
        """One Worker."""
        return self._started.reading.worker(ref)

    async def create_worker(self, request: CreateWorkerRequest = DEFAULT_REQUEST) -> WorkerDetail:
        """Create a Worker and have it spawned; a spawn that fails is told in its `execution`.

        Raises InvalidRequest, InvalidProfileSelector, ConfigBundleMissing, ConfigBundleDigestMismatch.
        """
        parts = self._open
        return await parts.lifecycle.create(request, parts.shelf.held)

    async def send_input(self, ref: WorkerRef, message: WorkerInput) -> InteractionAck:
        """Offer an input to the backend, store it, and have it run; in that order.

        While a run goes on it may also be stored and wait its turn, as its `when_busy` says; a Worker that nothing
        runs since the start is brought back first, unless that is never to be, and so is one that its backend has
        lost since, where its policy has the next input do that.
        Raises InvalidRequest, WorkerExecutionUnavailable, WorkerExecutionRejected; then nothing of it was stored.
        """
        return await self._started.inputs.send(ref, message)

    async def interrupt_worker(self, ref: WorkerRef) -> LifecycleAck:
        """End the current run of a Worker, which goes on; changes nothing where none goes on.

        What waits its turn is run next. Raises WorkerExecutionRejected where the backend can't.
        """
        return await self._started.inputs.interrupt(ref)

    async def restore_worker(self, ref: WorkerRef) -> WorkerDetail:
        """Have the backend run a Worker again, after a restart or a loss; changes nothing where it does.

        Raises InvalidRequest for a Worker that is not running, WorkerExecutionUnavailable where it can't be done; its
        `execution` says why.
        """
        parts = self._open
        await parts.lifecycle.restore(self._registry.mailbox(ref))
        return parts.reading.worker(ref)

    def permissions(self, ref: WorkerRef) -> tuple[Permission, ...]:
        """The permission requests of a Worker that wait for an answer, oldest first."""
        return self._registry.mailbox(ref).activity.permissions

    def all_permissions(self) -> tuple[WorkerPermission, ...]:
        """The permission requests of all Workers that can be served, by Worker, the oldest of each first."""
        return self._started.reading.permissions()

    async def answer_permission(self, ref: WorkerRef, request_id: str, option_id: str | None) -> PermissionResolution:
        """Answer a permission request with one of its options, or cancel it by None. The first answer counts.

        Raises PermissionNotFound for one that does not wait, InvalidRequest for an option that was not offered.
        """
        self._context.check_open()
        decision = partial(decisions.rule_on_permission, request_id=request_id, option_id=option_id)
        resolution: PermissionResolution = await self._registry.mailbox(ref).submit(decision)
        return resolution

    async def stop_worker(self, ref: WorkerRef, reason: str | None = None) -> LifecycleAck:
        """End a Worker in good order; changes nothing where it is not running."""
        return await self._started.lifecycle.end(ref, "stop", reason)

    async def cancel_worker(self, ref: WorkerRef, reason: str | None = None) -> LifecycleAck:
        """End a Worker at once; changes nothing where it is not running."""
        return await self._started.lifecycle.end(ref, "cancel", reason)

    async def delete_worker(self, ref: WorkerRef) -> None:
        """Remove a Worker that is not running, and all that is stored of it. Raises WorkerRunning.

        One that is damaged can be deleted too.
        """
        await self._open.lifecycle.delete(ref)

    async def transcript(self, ref: WorkerRef, start: int = 0, limit: int | None = None) -> TranscriptProjection:
        """A page of the transcript, behind its first `start` entries. Raises LimitTooLarge."""
        return await self._started.reading.transcript(ref, start, limit)

    async def snapshot(self, ref: WorkerRef, sequence: int | None = None) -> EventEnvelope:
        """The state of a Worker right behind this sequence, its newest event where none is given.

        Raises CursorExpired for one before the retained events.
        """
        return await self._started.reading.snapshot(ref, sequence)

    def newest_sequence(self, ref: WorkerRef) -> int:
        """The sequence of the Worker's newest published event, 0 for none."""
        return self._registry.mailbox(ref).worker.last_sequence

    def is_over(self, ref: WorkerRef) -> bool:
        """Whether the Worker is stopped or cancelled, so that no event of it follows its newest one."""
        return self._registry.mailbox(ref).worker.status != "running"

    def retained_after(self, ref: WorkerRef) -> int:
        """The sequence behind which all events of the Worker are retained, 0 when all there ever were are."""
        return self._registry.mailbox(ref).retained_after

    @property
    def fleet_retained_after(self) -> int:
        """The sequence behind which all events of all Workers are retained."""
        return self._registry.retained_after

    async def events(self, ref: WorkerRef, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """The first page of the Worker's published events behind a sequence, oldest first; as large as for a replay
        where no limit is given.

        Raises CursorExpired where they are not all retained, LimitTooLarge.
        """
        return await self._started.reading.events(ref, after, limit)

    async def all_events(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """The same of all Workers together."""
        return await self._started.reading.all_events(after, limit)


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
