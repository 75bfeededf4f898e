"""The life of Workers: create, restore, interrupt, end and delete them."""

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from runtimed.core.engine.backend_client import BackendClient
from runtimed.core.engine.event_sink import WorkerEventSink
from runtimed.core.engine.keyed_tasks import KeyedTasks
from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.ports import Clock, Spawn, Store
from runtimed.core.services import views
from runtimed.core.services.admission import Admission
from runtimed.core.services.diagnostics import Diagnostics
from runtimed.core.services.quotas import Quotas
from runtimed.core.services.restarts import Restarts
from runtimed.core.state import decisions
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, IdempotencyRecord, NumberedDiagnostic, Worker
from runtimed.errors import InvalidRequest, RuntimedError, StoreFull, WorkerExecutionRejected
from runtimed.model.bundle import ConfigBundle, Declaration
from runtimed.model.execution import LIMITS_MET, LossReason, Operation, Outcome
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import MAX_WORKER_NUMBER, RuntimeId, WorkerId, WorkerRef, worker_id
from runtimed.model.interaction import LifecycleAck
from runtimed.model.principal import Principal
from runtimed.model.worker import CreateWorkerRequest, WorkerDetail

Restore = Literal["eager", "lazy", "never"]
"""Which Workers are restored without a request: all at the start, each with its next input, or none."""

log = logging.getLogger(__name__)


class Lifecycle:
    """Creates, restores, interrupts and ends Workers. A call that has begun is finished if its caller is cancelled.

    Ending a Worker cancels its spawn and waits for its creation and restore, so that whatever was spawned is ended.

    Attributes:
        spawns: How often the backend was asked to run a Worker, by its answer.
        losses: How many programs of Workers were lost, by reason.
    """

    def __init__(
        self,
        runtime_id: RuntimeId,
        store: Store,
        backend: BackendClient,
        clock: Clock,
        limits: Limits,
        sequencer: Sequencer,
        registry: WorkerRegistry,
        diagnostics: Diagnostics,
        admission: Admission,
        quotas: Quotas,
        make_mailbox: Callable[[Worker, Activity], Mailbox],
        newest: int,
    ) -> None:
        """Make the service; `newest` is the highest Worker number that was given out so far."""
        self.spawns: Counter[Outcome] = Counter()
        self.losses: Counter[LossReason] = Counter()
        self._runtime_id = runtime_id
        self._store = store
        self._backend = backend
        self._clock = clock
        self.limits = limits
        self._sequencer = sequencer
        self._registry = registry
        self._diagnostics = diagnostics
        self._admission = admission
        self._quotas = quotas
        self._make_mailbox = make_mailbox
        self._numbers = itertools.count(newest + 1)
        self._spawning: set[WorkerId] = set()
        self._creating: KeyedTasks[WorkerDetail] = KeyedTasks()
        self._tenants_of_begun: dict[WorkerId, str | None] = {}
        self._restoring: KeyedTasks[None] = KeyedTasks()
        self._restarting: KeyedTasks[None] = KeyedTasks()
        self._restarts = Restarts(self._begin_restart)
        self._ending: KeyedTasks[None] = KeyedTasks()

    async def create(
        self,
        request: CreateWorkerRequest,
        bundles: Mapping[str, ConfigBundle],
        key: IdempotencyKey | None,
        principal: Principal,
    ) -> WorkerDetail:
        """Create a Worker and have it spawned, as Runtime.create_worker says.

        Args:
            request: The request, without an initial input.
            bundles: The bundles of its tenant, by id.
            key: The idempotency key of the request, if it has one. It is stored with the Worker.
            principal: Who asks. The Worker belongs to its tenant.
        """
        declarations = decisions.check_request(request, bundles)
        tenant = principal.tenant
        self._check_room(tenant)
        number = next(self._numbers)
        if number > MAX_WORKER_NUMBER:
            raise InvalidRequest("all Worker ids of this store are used")
        name = worker_id(number)
        self._tenants_of_begun[name] = tenant
        return await self._creating.run(name, self._create(name, request, declarations, key, principal))

    def _check_room(self, tenant: str | None) -> None:
        """Count Workers that are being created as well. Raises InvalidRequest or RateLimited."""
        begun = self._tenants_of_begun.values()
        if len(self._registry) + len(begun) >= self.limits.max_workers:
            raise InvalidRequest(f"expected at most {self.limits.max_workers} Workers (max_workers)")
        if tenant is not None:
            own = sum(other == tenant for other in begun)
            self._quotas.check_workers(tenant, len(self._registry.of_tenant(tenant).mailboxes) + own)
            self._quotas.take_create(tenant)

    async def created(self, name: WorkerId) -> None:
        """Wait until the Worker is spawned, or the attempt has failed."""
        await self._creating.over(name)

    async def _create(
        self,
        name: WorkerId,
        request: CreateWorkerRequest,
        declarations: tuple[Declaration, ...],
        key: IdempotencyKey | None,
        principal: Principal,
    ) -> WorkerDetail:
        try:
            worker = decisions.new_worker(name, request, declarations, self._clock.unix_ms(), principal.tenant)
            mailbox = await self._commit(worker, key, principal.actor)
        finally:
            self._tenants_of_begun.pop(name, None)
        with contextlib.suppress(StoreFull):
            most = self.limits.max_open_text
            await self._spawn(mailbox, Spawn(name, request, max_open_text=most, declarations=declarations))
        return views.detail(self._runtime_id, mailbox.worker, mailbox.retained_after, mailbox.sandbox)

    async def _commit(self, worker: Worker, key: IdempotencyKey | None, by: str) -> Mailbox:
        mailbox = self._make_mailbox(worker, Activity())
        diagnostics = tuple(map(self._sequencer.number, decisions.creation_diagnostics(worker)))
        created = self._sequencer.runtime_event("worker_created", worker.worker_id, tenant=worker.tenant, by=by)
        keys = () if key is None else (self._record(worker.worker_id, key),)
        change = Change(worker=worker, diagnostics=diagnostics, runtime_events=(created,), idempotency=keys)
        await self._sequencer.commit_and_apply(change, partial(self._add, mailbox, diagnostics))
        return mailbox

    def _record(self, name: WorkerId, key: IdempotencyKey) -> IdempotencyRecord:
        number, now = self._sequencer.next_idempotency_number(), self._sequencer.unix_ms()
        return IdempotencyRecord(number, key.scope, key.body, name, now)

    def _add(self, mailbox: Mailbox, diagnostics: Sequence[NumberedDiagnostic]) -> None:
        self._registry.add(mailbox)
        self._tenants_of_begun.pop(mailbox.worker.worker_id, None)
        self._diagnostics.keep(diagnostics)

    async def _spawn(self, mailbox: Mailbox, spawn: Spawn) -> None:
        if not self._backend.is_attached or self._admission.is_closed or spawn.worker_id in self._ending:
            return
        sink = WorkerEventSink(mailbox, self.limits, self._clock, self._on_loss)
        self._spawning.add(spawn.worker_id)
        try:
            answer = await self._backend.spawn(spawn, sink)
        finally:
            self._spawning.remove(spawn.worker_id)
        self.spawns[answer.outcome] += 1
        if answer.outcome == "accepted":
            mailbox.restart, mailbox.attachments = answer.restart, answer.attachments
            mailbox.sandbox, mailbox.profile = answer.sandbox, answer.profile
            self._restarts.note_start(spawn.worker_id)
        await sink.attach(answer)
        if sink.lost is not None:  # before the restart policy was known
            self._restart_after(mailbox, sink.lost)

    def _on_loss(self, mailbox: Mailbox, reason: LossReason) -> None:
        self.losses[reason] += 1
        self._restart_after(mailbox, reason)

    def _restart_after(self, mailbox: Mailbox, reason: LossReason) -> None:
        """Plan a restart if the Worker's policy says so or inputs are queued."""
        always = mailbox.restart == "always" and reason not in LIMITS_MET
        if always or (mailbox.restart != "never" and mailbox.worker.queued):
            self._plan_restart(mailbox)

    def _plan_restart(self, mailbox: Mailbox) -> None:
        is_over = mailbox.worker.status != "running" or mailbox.worker.worker_id in self._ending
        if self._admission.takes_work and not is_over:
            self._restarts.plan(mailbox)

    def _begin_restart(self, mailbox: Mailbox) -> None:
        if mailbox.worker.worker_id in self._restarting:
            self._plan_restart(mailbox)
        else:
            self._restarting.begin(mailbox.worker.worker_id, self._try_restart(mailbox))

    async def _try_restart(self, mailbox: Mailbox) -> None:
        name = mailbox.worker.worker_id
        try:
            await self.restore(mailbox)
        except RuntimedError as error:
            if mailbox.worker.execution.run_state == "errored":
                log.warning("cannot restart the Worker", extra={"worker_id": name, "reason": error.message})
                self._plan_restart(mailbox)
        except Exception:
            log.exception("cannot restart the Worker", extra={"worker_id": name})
            self._plan_restart(mailbox)

    async def _cancel_spawns(self, *names: WorkerId) -> None:
        """Cancel the spawns of these Workers that are unanswered: a program may never become ready."""
        unready = self._spawning.intersection(names)
        await asyncio.gather(*(self._backend.cancel(name, None) for name in unready))

    async def restore(self, mailbox: Mailbox) -> None:
        """Have the backend run a Worker again if it does not. Concurrent callers share one attempt.

        Changes of the Worker that wait for space on the disk come first.

        Raises:
            InvalidRequest: The Worker has ended or is being ended.
            WorkerExecutionUnavailable: The backend refused; the message says why.
        """
        name = mailbox.worker.worker_id
        await self._creating.over(name)
        await mailbox.submit(decisions.do_nothing)
        self._admission.check()
        self.check_not_ending(mailbox)
        decisions.check_running(mailbox.worker.status)
        if mailbox.worker.execution.backend == "unconnected":
            if name not in self._restoring:
                mailbox.dispatch_paused = False
                self._restoring.begin(name, self._restore(mailbox))
            await self._restoring.outcome(name)
        decisions.check_connected(mailbox.worker.status, mailbox.worker.execution)

    async def _restore(self, mailbox: Mailbox) -> None:
        worker = mailbox.worker
        mailbox.reconnect()
        page = self.limits.transcript_page
        history = await self._store.newest_entries(worker.worker_id, worker.transcript_len, page)
        most = self.limits.max_open_text
        spawn = Spawn(worker.worker_id, worker.request, tuple(history), most, declarations=worker.declarations)
        await self._spawn(mailbox, spawn)

    async def restore_all(self, mailboxes: Iterable[Mailbox]) -> None:
        """Restore these Workers, `max_restores` at a time. Each Worker's `execution` shows the outcome."""
        left = iter(mailboxes)
        await asyncio.gather(*(self._restore_some(left) for _ in range(self.limits.max_restores)))

    async def _restore_some(self, mailboxes: Iterator[Mailbox]) -> None:
        for mailbox in mailboxes:
            with contextlib.suppress(RuntimedError):
                await self.restore(mailbox)

    async def interrupt(self, mailbox: Mailbox) -> None:
        """End the current run. Does nothing if there is none. Raises WorkerExecutionRejected."""
        name = mailbox.worker.worker_id
        if name in self._ending:
            await self._ending.over(name)
        elif mailbox.worker.execution.backend == "connected":
            answer = await self._backend.interrupt(name)
            if answer.outcome != "accepted":
                raise WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")
            await mailbox.submit(decisions.do_nothing)

    def is_starting(self, mailbox: Mailbox) -> bool:
        """Return whether the Worker is being spawned, or was created and is about to be."""
        name = mailbox.worker.worker_id
        is_new = name in self._creating and mailbox.worker.execution.last_result is None
        return is_new or name in self._spawning

    def check_not_ending(self, mailbox: Mailbox) -> None:
        """Raise InvalidRequest if the Worker is being ended."""
        if mailbox.worker.worker_id in self._ending:
            raise InvalidRequest("the Worker is being stopped: only a running Worker takes input")

    async def end(self, ref: WorkerRef, operation: Operation, reason: str | None, by: str) -> LifecycleAck:
        """Stop or cancel a Worker, as Runtime.stop_worker and Runtime.cancel_worker say."""
        mailbox = self._registry.mailbox(ref)
        if mailbox.worker.status == "running":
            self._admission.check()
            if ref.worker_id not in self._ending:
                self._ending.begin(ref.worker_id, self._end(mailbox, operation, reason, by))
            elif operation == "cancel":
                await self._backend.cancel(ref.worker_id, reason)
            await self._ending.outcome(ref.worker_id)
        return views.lifecycle_ack(ref, mailbox.worker)

    async def _end(self, mailbox: Mailbox, operation: Operation, reason: str | None, by: str) -> None:
        name = mailbox.worker.worker_id
        self._restarts.forget(name)
        await self._cancel_spawns(name)
        await self._creating.over(name)
        await self._restoring.over(name)
        mailbox.dispatch_paused = True
        end = self._backend.cancel if operation == "cancel" else self._backend.stop
        answer = await end(name, reason)
        decision = partial(decisions.end_worker, operation=operation, answer=answer, reason=reason, by=by)
        mailbox.disconnect()
        await mailbox.submit(decision, keep=True)

    def plan_no_restarts(self) -> None:
        """Cancel the restarts that are planned. The admission keeps others from being planned."""
        self._restarts.close()

    def forget(self, name: WorkerId) -> None:
        """Plan no restart of this Worker any more."""
        self._restarts.forget(name)

    async def close(self) -> None:
        """Cancel spawns that are unanswered, and wait for everything else that was begun."""
        self._restarts.close()
        await self._cancel_spawns(*self._spawning)
        for tasks in (self._creating, self._restoring, self._restarting, self._ending):
            await tasks.join()
