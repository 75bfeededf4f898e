"""The life of Workers: creating, bringing back, interrupting, ending and deleting them."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from runtimed.core.engine.event_sink import WorkerEventSink
from runtimed.core.engine.keyed_tasks import KeyedTasks
from runtimed.core.engine.mailbox import STORE_RETRY_S, Mailbox
from runtimed.core.ports import Spawn
from runtimed.core.services import views
from runtimed.core.services.context import Context, ask
from runtimed.core.services.restarts import Restarts
from runtimed.core.state import decisions
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, NumberedDiagnostic
from runtimed.errors import InvalidRequest, RuntimedError, StoreFull, WorkerExecutionRejected
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.execution import LIMITS_MET, BackendAnswer, LossReason, Operation
from runtimed.model.identity import MAX_WORKER_NUMBER, WorkerId, WorkerRef, worker_id
from runtimed.model.interaction import LifecycleAck
from runtimed.model.worker import CreateWorkerRequest, WorkerDetail

log = logging.getLogger(__name__)

Restore = Literal["eager", "lazy", "never"]
"""Which Workers that ran before are brought back by themselves: all at the start; each with its next input; none."""

UNTOLD = "the execution backend failed; the daemon's log has the details"
PURGE_S = 60.0
"""How long retention waits for room that deleted Workers are about to give back, before others have to make it."""


class Lifecycle:
    """Owns what goes on for a Worker whatever becomes of whoever asked for it, at most one of each kind.

    An end cuts a creation and bringing back short, and waits for them, so that what is spawned is ended. `newest` is
    the highest Worker number that was given out. `_spawning` holds the Workers whose spawn is unanswered.
    """

    def __init__(self, context: Context, newest: int) -> None:
        self._context = context
        self._numbers = itertools.count(newest + 1)
        self._spawning: set[WorkerId] = set()
        self._creating: KeyedTasks[WorkerDetail] = KeyedTasks()
        self._restoring: KeyedTasks[None] = KeyedTasks()
        self._restarting: KeyedTasks[None] = KeyedTasks()
        self._restarts = Restarts(self._begin_restart)
        self._ending: KeyedTasks[None] = KeyedTasks()
        self._deleting: KeyedTasks[None] = KeyedTasks()
        self._purging: KeyedTasks[None] = KeyedTasks()

    async def create(self, request: CreateWorkerRequest, bundles: Mapping[str, ConfigBundle]) -> WorkerDetail:
        """See Runtime."""
        context = self._context
        decisions.check_request(request, bundles)
        begun = sum(name not in context.registry for name in self._creating)
        if len(context.registry) + begun >= context.limits.max_workers:
            raise InvalidRequest(f"expected at most {context.limits.max_workers} Workers (max_workers)")
        number = next(self._numbers)
        if number > MAX_WORKER_NUMBER:
            raise InvalidRequest("this store has given out all its Worker ids")
        name = worker_id(number)
        return await self._creating.run(name, self._create(name, request))

    async def _create(self, name: WorkerId, request: CreateWorkerRequest) -> WorkerDetail:
        context, sequencer = self._context, self._context.sequencer
        mailbox = context.mailbox(decisions.new_worker(name, request, context.clock.unix_ms()), Activity())
        diagnostics = tuple(map(sequencer.diagnostic, decisions.creation_diagnostics(mailbox.worker)))
        created = sequencer.runtime_event("worker_created", name)
        change = Change(worker=mailbox.worker, diagnostics=diagnostics, runtime_events=(created,))
        await sequencer.apply(change, partial(self._keep, mailbox, diagnostics))
        with contextlib.suppress(StoreFull):
            await self._spawn(mailbox, Spawn(name, request, max_open_text=context.limits.max_open_text))
        return views.detail(context.runtime_id, mailbox.worker, mailbox.retained_after)

    def _keep(self, mailbox: Mailbox, diagnostics: Sequence[NumberedDiagnostic]) -> None:
        self._context.registry.add(mailbox)
        self._context.diagnostics.keep(diagnostics)

    async def _spawn(self, mailbox: Mailbox, spawn: Spawn) -> None:
        context = self._context
        if context.backend is not None and not context.closing and mailbox.worker.worker_id not in self._ending:
            sink = WorkerEventSink(mailbox, context.limits, context.clock, self._lost)
            self._spawning.add(spawn.worker_id)
            try:
                answer = await ask(context.backend.spawn(spawn, sink))
            finally:
                self._spawning.remove(spawn.worker_id)
            if answer.outcome == "accepted":
                mailbox.restart = answer.restart
                self._restarts.note_start(spawn.worker_id)
            await sink.attach(answer)
            if sink.lost is not None:  # before it was known what follows a loss
                self._lost(mailbox, sink.lost)

    def _lost(self, mailbox: Mailbox, reason: LossReason) -> None:
        """Plan to bring back what was lost, where its policy says so or inputs wait for it."""
        always = mailbox.restart == "always" and reason not in LIMITS_MET
        if always or (mailbox.restart != "never" and mailbox.worker.queued):
            self._plan_restart(mailbox)

    def _plan_restart(self, mailbox: Mailbox) -> None:
        is_over = mailbox.worker.status != "running" or mailbox.worker.worker_id in self._ending
        if not self._context.closing and not is_over:
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
                log.warning("%s could not be started again: %s", name, error.message)
                self._plan_restart(mailbox)
        except Exception:
            log.exception("%s could not be started again", name)
            self._plan_restart(mailbox)

    async def _cut_spawns(self, *names: WorkerId) -> None:
        """Cancel the spawns of these Workers that the backend has not answered: a program may never become ready."""
        backend = self._context.backend
        if backend is not None:
            unready = self._spawning.intersection(names)
            await asyncio.gather(*(ask(backend.cancel(name, None)) for name in unready))

    async def restore(self, mailbox: Mailbox) -> None:
        """Have the backend run a Worker again, where it does not; those who ask at the same time share one attempt.

        What a full store is yet to take of it comes first, the answer to a spawn or an end.
        Raises InvalidRequest where the Worker is not running, WorkerExecutionUnavailable where it can't be done.
        """
        name = mailbox.worker.worker_id
        await self._creating.over(name)
        await mailbox.submit(decisions.do_nothing)
        self._context.check_open()
        self.check_not_ending(mailbox)
        decisions.check_running(mailbox.worker.status)
        if mailbox.worker.execution.backend == "unconnected":
            if name not in self._restoring:
                mailbox.dispatch_paused = False
                self._restoring.begin(name, self._restore(mailbox))
            await self._restoring.outcome(name)
        decisions.check_connected(mailbox.worker.status, mailbox.worker.execution)

    async def _restore(self, mailbox: Mailbox) -> None:
        worker, context = mailbox.worker, self._context
        page = context.limits.transcript_page
        mailbox.reconnect()
        history = await context.store.newest_entries(worker.worker_id, worker.transcript_len, page)
        most = context.limits.max_open_text
        await self._spawn(mailbox, Spawn(worker.worker_id, worker.request, tuple(history), most))

    async def restore_all(self, mailboxes: Iterable[Mailbox]) -> None:
        """Bring back these Workers, `max_restores` at once; what became of it is told in their `execution`."""
        left = iter(mailboxes)
        await asyncio.gather(*(self._restore_some(left) for _ in range(self._context.limits.max_restores)))

    async def _restore_some(self, mailboxes: Iterator[Mailbox]) -> None:
        for mailbox in mailboxes:
            with contextlib.suppress(RuntimedError):
                await self.restore(mailbox)

    async def interrupt(self, mailbox: Mailbox) -> None:
        """End the current run; changes nothing where none goes on. Raises WorkerExecutionRejected."""
        if mailbox.worker.worker_id in self._ending:
            await self._ending.over(mailbox.worker.worker_id)
        elif mailbox.worker.execution.backend == "connected":
            answer = await ask(self._context.attached.interrupt(mailbox.worker.worker_id))
            if answer.outcome != "accepted":
                raise WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")
            await mailbox.submit(decisions.do_nothing)

    def check_not_ending(self, mailbox: Mailbox) -> None:
        """Raises InvalidRequest for a Worker that is being ended."""
        if mailbox.worker.worker_id in self._ending:
            raise InvalidRequest("the Worker is being stopped: only a running Worker takes input")

    async def end(self, ref: WorkerRef, operation: Operation, reason: str | None) -> LifecycleAck:
        """Stop or cancel a Worker; changes nothing where it is not running."""
        mailbox = self._context.registry.mailbox(ref)
        if mailbox.worker.status == "running":
            self._context.check_open()
            if ref.worker_id not in self._ending:
                self._ending.begin(ref.worker_id, self._end(mailbox, operation, reason))
            elif operation == "cancel" and self._context.backend is not None:
                await ask(self._context.backend.cancel(ref.worker_id, reason))
            await self._ending.outcome(ref.worker_id)
        return views.lifecycle_ack(ref, mailbox.worker)

    async def _end(self, mailbox: Mailbox, operation: Operation, reason: str | None) -> None:
        name, backend = mailbox.worker.worker_id, self._context.backend
        self._restarts.forget(name)
        await self._cut_spawns(name)
        await self._creating.over(name)
        await self._restoring.over(name)
        mailbox.dispatch_paused = True
        answer = BackendAnswer("accepted")
        if backend is not None:
            end = backend.cancel if operation == "cancel" else backend.stop
            answer = await ask(end(name, reason))
        decision = partial(decisions.end_worker, operation=operation, answer=answer, reason=reason)
        mailbox.disconnect()
        await mailbox.submit(decision, keep=True)

    async def delete(self, ref: WorkerRef) -> None:
        """See Runtime."""
        name = ref.worker_id
        if not self._context.registry.is_damaged(name):
            self._context.registry.mailbox(ref)
        if name not in self._deleting:
            self._deleting.begin(name, self._delete(name))
        await self._deleting.outcome(name)

    async def _delete(self, name: WorkerId) -> None:
        context = self._context
        mailbox = context.registry.find(name)
        if mailbox is None or context.registry.is_damaged(name):
            await context.sequencer.apply(Change(deleted=name), _nothing)
        else:
            await mailbox.submit(decisions.delete_worker)
        self._restarts.forget(name)
        context.registry.remove(name)
        context.diagnostics.drop_worker(name)
        context.pages.forget(name)
        context.sequencer.forget(name)
        self.purge(name)

    def purge(self, name: WorkerId) -> None:
        """Begin to remove what is left of a deleted Worker, which nobody can read any more."""
        self._purging.begin(name, self._purge(name))

    async def _purge(self, name: WorkerId) -> None:
        failure = await self._delete_from_backend(name)
        if name in self._context.diagnostics:  # of an earlier failure
            await _logged(self._keep_deleted(name), f"{name}: its diagnostic could not be dropped")
        told = f"{name}: what is left of it can only be removed at the next start"
        purging = asyncio.ensure_future(_logged(self._purge_store(name), told))
        try:
            await asyncio.shield(purging)
        finally:
            await asyncio.wait([purging])  # in one transaction with it the store would forget what follows
            if failure is not None:
                await _logged(self._keep_failure(name, failure), f"{name}: its diagnostic could not be stored")

    async def _delete_from_backend(self, name: WorkerId) -> str | None:
        """Have the backend delete what it keeps, and return why it could not, in words for clients."""
        backend = self._context.backend
        if backend is None:
            return None
        try:
            await backend.delete(name)
        except OSError as error:
            log.warning("%s: the execution backend failed to delete what it keeps: %s", name, error)
            return error.strerror or UNTOLD
        except Exception:
            log.exception("%s: the execution backend failed to delete what it keeps", name)
            return UNTOLD
        return None

    async def _keep_deleted(self, name: WorkerId) -> None:
        """Store again that a Worker is deleted, which has the next start delete it again, and drop its remarks."""
        diagnostics = self._context.diagnostics
        await self._context.sequencer.apply(Change(deleted=name), partial(diagnostics.drop_worker, name))

    async def _keep_failure(self, name: WorkerId, failure: str) -> None:
        context = self._context
        await self._keep_deleted(name)
        message = f"the Worker is deleted, but something of it is left: {failure}; the next start tries again"
        diagnostic = context.sequencer.diagnostic(Diagnostic("worker.delete_failed", "error", message, name))
        await context.sequencer.apply(
            Change(diagnostics=(diagnostic,)), partial(context.diagnostics.keep, (diagnostic,))
        )

    async def _purge_store(self, name: WorkerId) -> None:
        """Remove what is stored, as far as that is done when the Runtime closes; on a full disk, a little later."""
        purged = False
        while not purged and not self._context.closing:
            try:
                purged = await self._context.store.purge(name)
            except StoreFull:
                await asyncio.sleep(STORE_RETRY_S)

    async def purged(self) -> None:
        """Wait until nothing is left of the Workers that are deleted by now; no longer than PURGE_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PURGE_S):
                await self._purging.join()

    async def close(self) -> None:
        """Wait for what was begun, but for no program to be ready; a purge goes on in the next life."""
        self._restarts.close()
        await self._cut_spawns(*self._spawning)
        for works in (self._creating, self._restoring, self._restarting, self._ending, self._deleting):
            await works.join()
        await self._purging.cancel()


async def _logged(work: Awaitable[None], failure: str) -> None:
    """Work that nobody waits for; what ends it is for the log."""
    try:
        await work
    except Exception:
        log.exception(failure)


def _nothing() -> None:
    """What there is to apply in memory where only the store changes."""
