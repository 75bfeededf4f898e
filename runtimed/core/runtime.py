"""The Runtime: the public face of the core, for the daemon and for programs that embed one."""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from runtimed.core import bundles, decide, views
from runtimed.core.activity import Activity
from runtimed.core.catalog import Catalog, WorkerFilter
from runtimed.core.change import Change, EncodedEvent, Moment, Remark, StoredState
from runtimed.core.clock import SteadyClock
from runtimed.core.lane import STORE_RETRY_S, Lane
from runtimed.core.limits import Limits
from runtimed.core.pages import Pages
from runtimed.core.paging import PageSize
from runtimed.core.pipeline import Listener, Pipeline
from runtimed.core.ports import Answer, Clock, Dispatch, ExecutionBackend, Spawn, Store
from runtimed.core.remarks import Remarks
from runtimed.core.retention import Retention, retained
from runtimed.core.sink import LaneSink
from runtimed.core.works import Works
from runtimed.errors import (
    InvalidRequest,
    InvalidWorkerId,
    RuntimedError,
    RuntimeStopped,
    StoreFull,
    WorkerExecutionRejected,
)
from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.execution import Operation
from runtimed.model.identity import (
    MAX_WORKER_NUMBER,
    RuntimeId,
    WorkerId,
    WorkerRef,
    event_id,
    worker_id,
    worker_number,
)
from runtimed.model.interaction import InteractionAck, LifecycleAck, WorkerInput
from runtimed.model.runtime import RuntimeEvent, RuntimeEventKind, RuntimeStatus, RuntimeSummary, StoreCheck
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.worker import BundleReference, CreateWorkerRequest, WorkerDetail, WorkerSummary

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_REQUEST = CreateWorkerRequest()
ALL_WORKERS = WorkerFilter()
CUT = "the daemon ended while it was going on"
SETTLE_S = 2.0
"""How long the end waits for output that the store has not taken yet; a full one may never take it."""


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
    ) -> None:
        self.limits = limits or Limits()
        self.display_name = display_name
        self._store = store
        self._backend = backend
        self._wanted_id = RuntimeId(runtime_id) if runtime_id is not None else None
        self._clock = clock or SteadyClock()
        self._status: RuntimeStatus = "stopped"
        self._runtime_id: RuntimeId | None = None
        self._steps: Pipeline | None = None
        self._workers: Catalog | None = None
        self._closing: asyncio.Task[None] | None = None
        self._retaining: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[StoreCheck] | None = None
        self._bundles: dict[str, ConfigBundle] = {}
        self._arriving: dict[asyncio.Task[None], str] = {}
        self._remarks = Remarks(())
        self._pages = Pages(self.limits.transcript_cache_bytes)
        self._creating: Works[WorkerDetail] = Works()
        self._ending: Works[None] = Works()
        self._deleting: Works[None] = Works()
        self._purging: Works[None] = Works()
        self._numbers = itertools.count(1)
        self._life = secrets.token_hex(8)
        self._input_numbers = itertools.count(1)

    async def start(self) -> None:
        """Open the store and take over what it holds; runs that the end of an earlier life cut are closed.

        Raises StartError where the store can't be had, RuntimeStopped for a Runtime that was started before.
        """
        if self._steps is not None:
            raise RuntimeStopped
        try:
            state = await self._store.open(self._wanted_id)
        except BaseException:
            await self._store.close()
            raise
        self._runtime_id = state.runtime_id
        self._steps = Pipeline(self._store, self._clock, state)
        self._workers = Catalog(state.runtime_id, state.damaged)
        self._numbers = itertools.count(state.worker_number + 1)
        self._bundles = {bundle.metadata.id: bundle for bundle in state.bundles}
        self._remarks = Remarks(state.remarks)
        self._status = "running"
        try:
            await self._adopt(state)
            await self._tell("runtime_started")
        except BaseException:
            await self.close()
            raise
        for name in state.deleted:
            self._purging.begin(name, self._purge(name))
        retention = Retention(self._store, self._steps, self._catalog, self._remarks, self.limits, self._clock)
        self._steps.subscribe(retention)
        self._retaining = asyncio.get_running_loop().create_task(retention.run(state.marks))

    async def _adopt(self, state: StoredState) -> None:
        """Take over the Workers. A store that is full closes their cut runs later, as soon as it has room."""
        closing = []
        for worker in state.workers:
            activity = state.activities.get(worker.worker_id, Activity(worker.activity))
            lane = Lane(self._pipeline, worker, activity)
            self._catalog.add(lane)
            cut = activity.status == "running" or worker.execution.run_state == "busy"
            lane.disconnect()
            if (cut or activity.open) and not self._catalog.is_damaged(worker.worker_id):
                closing.append(lane.propose(partial(decide.lose_execution, why=CUT, cut=cut), keep=True))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, StoreFull):
                raise outcome

    async def _tell(self, kind: RuntimeEventKind) -> None:
        """Store a runtime event of the Runtime's own; on a full disk it is left out."""
        change = Change(runtime_events=(self._pipeline.runtime_event(kind),))
        with contextlib.suppress(StoreFull):
            await self._pipeline.apply(change, _nothing)

    async def close(self) -> None:
        """End what runs, finish what was begun, close the store. Workers stay `running`. Harmless when repeated."""
        if self._steps is None:
            return
        if self._closing is None:
            self._status = "stopped"
            self._closing = asyncio.get_running_loop().create_task(self._close(self._steps))
        await asyncio.shield(self._closing)

    async def _close(self, steps: Pipeline) -> None:
        for task in (self._retaining, self._checking):
            await _cancelled(task)
        for works in (self._creating, self._ending, self._deleting):
            await works.join()
        await self._purging.cancel()
        if self._backend is not None:
            await self._backend.close()
        await self._settle()
        with contextlib.suppress(RuntimedError):
            await self._tell("runtime_stopped")
        steps.close()
        await self._store.close()

    async def _settle(self) -> None:
        """Have output stored that was taken but lingers."""
        waiting = [lane.settled() for lane in self._catalog if lane.backlog]
        if waiting:
            await asyncio.wait(waiting, timeout=SETTLE_S)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def runtime_id(self) -> RuntimeId:
        """Who this is. Raises RuntimeStopped before the start, as everything here does that needs the store."""
        if self._runtime_id is None:
            raise RuntimeStopped
        return self._runtime_id

    @property
    def head(self) -> int:
        """The sequence of the newest event that was published, 0 for none."""
        return self._pipeline.head

    @property
    def poisoned(self) -> asyncio.Future[BaseException]:
        """Done, with the cause, once a write has failed for good: nothing is accepted any more."""
        return self._pipeline.poisoned

    @property
    def _pipeline(self) -> Pipeline:
        if self._steps is None:
            raise RuntimeStopped
        return self._steps

    @property
    def _catalog(self) -> Catalog:
        if self._workers is None:
            raise RuntimeStopped
        return self._workers

    def subscribe(self, listener: Listener) -> None:
        """Tell the listener of every event from now on."""
        self._pipeline.subscribe(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Tell the listener no more."""
        self._pipeline.unsubscribe(listener)

    def ref(self, text: str, field: str = "worker_id") -> WorkerRef:
        """The full address of the Worker with this id. Raises InvalidWorkerId, which names the field."""
        if worker_number(text) is None:
            raise InvalidWorkerId(field)
        return WorkerRef(self.runtime_id, WorkerId(text))

    def summary(self) -> RuntimeSummary:
        """The Runtime and its counts."""
        count = self._catalog.count()
        return RuntimeSummary(
            runtime_id=self.runtime_id,
            display_name=self.display_name,
            backend=self._store.backend,
            status=self._status,
            worker_count=len(self._catalog),
            active_worker_count=count["running"],
            stopped_worker_count=count["stopped"],
            cancelled_worker_count=count["cancelled"],
            diagnostic_count=len(self._remarks) + len(self._catalog.damaged),
            limits=self.limits.view(),
        )

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What the Runtime has had to remark, oldest first; then the Workers that can't be served."""
        return self._remarks.diagnostics() + self._catalog.damage()

    @property
    def newest_runtime_event(self) -> int:
        """The id of the newest runtime event, 0 for none."""
        return self._pipeline.newest_runtime_event

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
            if self._checking.cancelled() and self._status == "stopped":
                raise RuntimeStopped from None
            raise

    def bundles(self) -> tuple[ConfigBundleSummary, ...]:
        """The bundles held, by id."""
        return tuple(bundles.summary(self._bundles[name]) for name in sorted(self._bundles))

    async def put_bundle(self, bundle: ConfigBundle) -> Availability:
        """Keep a bundle; one with the same id is replaced. Raises what the checks of contract section 5 name."""
        self._check_running()
        bundles.check_bundle(bundle)
        bundle_id = bundle.metadata.id
        known = {*self._bundles, *self._arriving.values()}
        if bundle_id not in known and len(known) >= self.limits.max_bundles:
            raise InvalidRequest(f"bundle: expected at most {self.limits.max_bundles} bundles (max_bundles)")
        keep = partial(self._keep_bundle, bundle)
        arriving = asyncio.get_running_loop().create_task(self._pipeline.apply(Change(bundle=bundle), keep))
        self._arriving[arriving] = bundle_id
        arriving.add_done_callback(self._arriving.pop)
        await asyncio.shield(arriving)
        return bundles.availability(bundle)

    def _keep_bundle(self, bundle: ConfigBundle) -> None:
        self._bundles[bundle.metadata.id] = bundle

    def bundle_availability(self, reference: BundleReference) -> Availability:
        """Whether exactly this version is held. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        bundles.check_digest(reference.digest, "digest")
        return bundles.availability(bundles.held(self._bundles, reference))

    def workers(self, wanted: WorkerFilter = ALL_WORKERS) -> tuple[WorkerSummary, ...]:
        """The Workers that are wanted, by id."""
        return tuple(views.summary(self.runtime_id, worker) for worker in self._catalog.select(wanted))

    def labels(self, worker_id: WorkerId) -> Mapping[str, str]:
        """The labels of a Worker; one that there is not has none."""
        lane = self._catalog.find(worker_id)
        return {} if lane is None else lane.worker.request.labels

    def worker(self, ref: WorkerRef) -> WorkerDetail:
        """One Worker."""
        lane = self._lane(ref)
        return views.detail(self.runtime_id, lane.worker, lane.floor)

    async def create_worker(self, request: CreateWorkerRequest = DEFAULT_REQUEST) -> WorkerDetail:
        """Create a Worker and have it spawned; a spawn that fails is told in its `execution`.

        Raises InvalidRequest, InvalidProfileSelector, ConfigBundleMissing, ConfigBundleDigestMismatch.
        """
        self._check_running()
        decide.check_request(request, self._bundles)
        begun = sum(name not in self._catalog for name in self._creating)
        if len(self._catalog) + begun >= self.limits.max_workers:
            raise InvalidRequest(f"expected at most {self.limits.max_workers} Workers (max_workers)")
        number = next(self._numbers)
        if number > MAX_WORKER_NUMBER:
            raise InvalidRequest("this store has given out all its Worker ids")
        name = worker_id(number)
        return await self._creating.run(name, self._create(name, request))

    async def _create(self, name: WorkerId, request: CreateWorkerRequest) -> WorkerDetail:
        lane = Lane(self._pipeline, decide.new_worker(name, request), Activity())
        remarks = tuple(map(self._pipeline.remark, decide.remarks(lane.worker)))
        created = self._pipeline.runtime_event("worker_created", name)
        change = Change(worker=lane.worker, remarks=remarks, runtime_events=(created,))
        await self._pipeline.apply(change, partial(self._keep_worker, lane, remarks))
        if self._backend is not None:
            sink = LaneSink(lane, self.limits, self._clock)
            await sink.attach(await _ask(self._backend.spawn(Spawn(name, request), sink)))
        return views.detail(self.runtime_id, lane.worker, lane.floor)

    def _keep_worker(self, lane: Lane, remarks: Sequence[Remark]) -> None:
        self._catalog.add(lane)
        self._remarks.keep(remarks)

    async def send_input(self, ref: WorkerRef, message: WorkerInput) -> InteractionAck:
        """Offer an input to the backend, store it, and have it run; in that order.

        Raises InvalidRequest, WorkerExecutionUnavailable, WorkerExecutionRejected; then nothing of it was stored.
        """
        lane = self._lane(ref)
        self._check_running()
        self._check_not_ending(lane)
        decide.check_input(lane.worker.status, lane.worker.execution, message)
        input_id = f"{self._life}-{next(self._input_numbers)}"
        answer = await self._dispatch(Dispatch(ref.worker_id, input_id, message))
        if answer.outcome != "accepted":
            await lane.propose(partial(decide.refuse_input, answer=answer))
            raise WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")
        entry, sequence = await lane.propose(
            partial(decide.take_input, message=message),
            committed=partial(self._attached.start, ref.worker_id, input_id),
            abandoned=partial(self._attached.withdraw, ref.worker_id, input_id),
        )
        return InteractionAck(ref, lane.worker.status, entry, event_id(sequence))

    async def _dispatch(self, dispatch: Dispatch) -> Answer:
        try:
            return await _ask(self._attached.dispatch(dispatch))
        except asyncio.CancelledError:
            self._attached.withdraw(dispatch.worker_id, dispatch.input_id)
            raise

    async def stop_worker(self, ref: WorkerRef, reason: str | None = None) -> LifecycleAck:
        """End a Worker in good order; changes nothing where it is not running."""
        return await self._end(ref, "stop", reason)

    async def cancel_worker(self, ref: WorkerRef, reason: str | None = None) -> LifecycleAck:
        """End a Worker at once; changes nothing where it is not running."""
        return await self._end(ref, "cancel", reason)

    async def _end(self, ref: WorkerRef, operation: Operation, reason: str | None) -> LifecycleAck:
        lane = self._lane(ref)
        if lane.worker.status == "running":
            self._check_running()
            if ref.worker_id not in self._ending:
                self._ending.begin(ref.worker_id, self._end_lane(lane, operation, reason))
            elif operation == "cancel" and self._backend is not None:
                await _ask(self._backend.cancel(ref.worker_id, reason))
            await self._ending.outcome(ref.worker_id)
        return LifecycleAck(ref, lane.worker.status, event_id(lane.worker.last_sequence))

    async def _end_lane(self, lane: Lane, operation: Operation, reason: str | None) -> None:
        name = lane.worker.worker_id
        await self._creating.over(name)
        answer = Answer("accepted")
        if self._backend is not None:
            end = self._backend.cancel if operation == "cancel" else self._backend.stop
            answer = await _ask(end(name, reason))
        decision = partial(
            decide.end_worker,
            operation=operation,
            answer=answer,
            reason=reason,
            unix_ms=self._clock.unix_ms(),
        )
        lane.disconnect()
        await lane.propose(decision, keep=True)

    async def delete_worker(self, ref: WorkerRef) -> None:
        """Remove a Worker that is not running, and all that is stored of it. Raises WorkerRunning.

        One that is damaged can be deleted too.
        """
        self._check_running()
        name = ref.worker_id
        if not self._catalog.is_damaged(name):
            self._lane(ref)
        if name not in self._deleting:
            self._deleting.begin(name, self._delete(name))
        await self._deleting.outcome(name)

    async def _delete(self, name: WorkerId) -> None:
        lane = self._catalog.find(name)
        if lane is None or self._catalog.is_damaged(name):
            await self._pipeline.apply(Change(deleted=name), _nothing)
        else:
            await lane.propose(decide.delete_worker)
        self._catalog.remove(name)
        self._remarks.drop_worker(name)
        self._pages.forget(name)
        self._pipeline.forget(name)
        self._purging.begin(name, self._purge(name))

    async def _purge(self, name: WorkerId) -> None:
        """Remove what is left of a deleted Worker, which nobody can read any more."""
        if self._backend is not None:
            await _logged(self._backend.delete(name), f"{name}: the execution backend failed to delete what it keeps")
        await _logged(self._purge_store(name), f"{name}: what is left of it can only be removed at the next start")

    async def _purge_store(self, name: WorkerId) -> None:
        """Remove what is stored; on a full disk, a little later."""
        purged = False
        while not purged:
            try:
                purged = await self._store.purge(name)
            except StoreFull:
                await asyncio.sleep(STORE_RETRY_S)

    async def transcript(self, ref: WorkerRef, start: int = 0, limit: int | None = None) -> TranscriptProjection:
        """A page of the transcript, behind its first `start` entries. Raises LimitTooLarge."""
        worker = self._lane(ref).worker
        page = self.limits.transcript_page.at_most(limit)
        total = worker.transcript_len
        items = self._pages.find(ref.worker_id, start, page.items, total)
        if items is None:
            entries = await self._store.read_entries(ref.worker_id, start, page)
            items = views.items(ref, (entry for entry in entries if entry.sequence <= total))
            self._pages.keep(ref.worker_id, start, page.items, total, items)
        end = start + len(items)
        next_start = end if items and end < total else None
        return TranscriptProjection(ref, start, page.items, total, items, next_start)

    async def snapshot(self, ref: WorkerRef, sequence: int | None = None) -> EventEnvelope:
        """The state of a Worker right behind this sequence, its newest event where none is given.

        Raises CursorExpired for one before the retained events.
        """
        lane = self._lane(ref)
        worker = lane.worker
        if sequence is None or sequence >= worker.last_sequence:
            moment = Moment(worker.transcript_len, lane.activity)
        else:
            async with retained(lane, sequence):
                moment = await self._store.moment(ref.worker_id, sequence)
        page = self.limits.transcript_page
        entries = await self._store.newest_entries(ref.worker_id, moment.transcript_len, page)
        at = worker.last_sequence if sequence is None else sequence
        return views.snapshot(self.runtime_id, worker, at, entries, moment.activity)

    def newest_sequence(self, ref: WorkerRef) -> int:
        """The sequence of the Worker's newest published event, 0 for none."""
        return self._lane(ref).worker.last_sequence

    def floor(self, ref: WorkerRef) -> int:
        """The sequence behind which all events of the Worker are retained, 0 when all there ever were are."""
        return self._lane(ref).floor

    @property
    def fleet_floor(self) -> int:
        """The sequence behind which all events of all Workers are retained."""
        return self._catalog.floor

    async def events(self, ref: WorkerRef, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """The first page of the Worker's published events behind a sequence, oldest first; as large as for a replay
        where no limit is given.

        Raises CursorExpired where they are not all retained, LimitTooLarge.
        """
        lane = self._lane(ref)
        page = self._events_page(limit)
        async with retained(lane, after):
            upto = lane.worker.last_sequence
            return await self._store.read_events(ref.worker_id, after, upto, page) if after < upto else ()

    async def all_events(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """The same of all Workers together."""
        page = self._events_page(limit)
        async with retained(self._catalog, after):
            return await self._store.read_all_events(after, self.head, page) if after < self.head else ()

    def _events_page(self, limit: int | None) -> PageSize:
        return self.limits.replay_page if limit is None else self.limits.event_page.at_most(limit)

    @property
    def _attached(self) -> ExecutionBackend:
        if self._backend is None:
            raise RuntimeStopped
        return self._backend

    def _lane(self, ref: WorkerRef) -> Lane:
        return self._catalog.lane(ref)

    def _check_running(self) -> None:
        if self._status != "running":
            raise RuntimeStopped

    def _check_not_ending(self, lane: Lane) -> None:
        if lane.worker.worker_id in self._ending:
            raise InvalidRequest("the Worker is being stopped: only a running Worker takes input")


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _nothing() -> None:
    """What there is to apply in memory where only the store changes."""


async def _logged(work: Awaitable[None], failure: str) -> None:
    """Work that nobody waits for; what ends it is for the log."""
    try:
        await work
    except Exception:
        log.exception(failure)


async def _ask(answer: Awaitable[Answer]) -> Answer:
    """A backend's answer, in Unicode; one that fails instead of answering has answered that it failed."""
    try:
        found = await answer
        return Answer(found.outcome, found.message and found.message.encode(errors="replace").decode())
    except Exception:
        log.exception("the execution backend failed")
        return Answer("errored", "the execution backend failed; the daemon's log has the details")
