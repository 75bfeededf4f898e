"""The life of Workers: creating, bringing back, interrupting, ending and deleting them."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from runtimed.core import decide, views
from runtimed.core.activity import Activity
from runtimed.core.change import Change, Remark
from runtimed.core.context import Context, ask
from runtimed.core.lane import STORE_RETRY_S, Lane
from runtimed.core.ports import Answer, Spawn
from runtimed.core.restarts import Restarts
from runtimed.core.sink import LaneSink
from runtimed.core.works import Works
from runtimed.errors import InvalidRequest, RuntimedError, StoreFull, WorkerExecutionRejected
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.execution import LIMITS_MET, LossReason, Operation
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
        self._creating: Works[WorkerDetail] = Works()
        self._restoring: Works[None] = Works()
        self._restarting: Works[None] = Works()
        self._restarts = Restarts(self._begin_restart)
        self._ending: Works[None] = Works()
        self._deleting: Works[None] = Works()
        self._purging: Works[None] = Works()

    async def create(self, request: CreateWorkerRequest, bundles: Mapping[str, ConfigBundle]) -> WorkerDetail:
        """See Runtime."""
        context = self._context
        decide.check_request(request, bundles)
        begun = sum(name not in context.catalog for name in self._creating)
        if len(context.catalog) + begun >= context.limits.max_workers:
            raise InvalidRequest(f"expected at most {context.limits.max_workers} Workers (max_workers)")
        number = next(self._numbers)
        if number > MAX_WORKER_NUMBER:
            raise InvalidRequest("this store has given out all its Worker ids")
        name = worker_id(number)
        return await self._creating.run(name, self._create(name, request))

    async def _create(self, name: WorkerId, request: CreateWorkerRequest) -> WorkerDetail:
        context, pipeline = self._context, self._context.pipeline
        lane = context.lane(decide.new_worker(name, request, context.clock.unix_ms()), Activity())
        remarks = tuple(map(pipeline.remark, decide.remarks(lane.worker)))
        created = pipeline.runtime_event("worker_created", name)
        change = Change(worker=lane.worker, remarks=remarks, runtime_events=(created,))
        await pipeline.apply(change, partial(self._keep, lane, remarks))
        with contextlib.suppress(StoreFull):
            await self._spawn(lane, Spawn(name, request, max_open_text=context.limits.max_open_text))
        return views.detail(context.runtime_id, lane.worker, lane.floor)

    def _keep(self, lane: Lane, remarks: Sequence[Remark]) -> None:
        self._context.catalog.add(lane)
        self._context.remarks.keep(remarks)

    async def _spawn(self, lane: Lane, spawn: Spawn) -> None:
        context = self._context
        if context.backend is not None and not context.closing and lane.worker.worker_id not in self._ending:
            sink = LaneSink(lane, context.limits, context.clock, self._lost)
            self._spawning.add(spawn.worker_id)
            try:
                answer = await ask(context.backend.spawn(spawn, sink))
            finally:
                self._spawning.remove(spawn.worker_id)
            if answer.outcome == "accepted":
                lane.restart = answer.restart
                self._restarts.note_start(spawn.worker_id)
            await sink.attach(answer)
            if sink.lost is not None:  # before it was known what follows a loss
                self._lost(lane, sink.lost)

    def _lost(self, lane: Lane, reason: LossReason) -> None:
        """Plan to bring back what was lost, where its policy says so or inputs wait for it."""
        always = lane.restart == "always" and reason not in LIMITS_MET
        if always or (lane.restart != "never" and lane.worker.waiting):
            self._plan_restart(lane)

    def _plan_restart(self, lane: Lane) -> None:
        is_over = lane.worker.status != "running" or lane.worker.worker_id in self._ending
        if not self._context.closing and not is_over:
            self._restarts.plan(lane)

    def _begin_restart(self, lane: Lane) -> None:
        if lane.worker.worker_id in self._restarting:
            self._plan_restart(lane)
        else:
            self._restarting.begin(lane.worker.worker_id, self._try_restart(lane))

    async def _try_restart(self, lane: Lane) -> None:
        name = lane.worker.worker_id
        try:
            await self.restore(lane)
        except RuntimedError as error:
            if lane.worker.execution.run_state == "errored":
                log.warning("%s could not be started again: %s", name, error.message)
                self._plan_restart(lane)
        except Exception:
            log.exception("%s could not be started again", name)
            self._plan_restart(lane)

    async def _cut_spawns(self, *names: WorkerId) -> None:
        """Cancel the spawns of these Workers that the backend has not answered: a program may never become ready."""
        backend = self._context.backend
        if backend is not None:
            unready = self._spawning.intersection(names)
            await asyncio.gather(*(ask(backend.cancel(name, None)) for name in unready))

    async def restore(self, lane: Lane) -> None:
        """Have the backend run a Worker again, where it does not; those who ask at the same time share one attempt.

        What a full store is yet to take of it comes first, the answer to a spawn or an end.
        Raises InvalidRequest where the Worker is not running, WorkerExecutionUnavailable where it can't be done.
        """
        name = lane.worker.worker_id
        await self._creating.over(name)
        await lane.propose(decide.nothing)
        self._context.check_open()
        self.check_not_ending(lane)
        decide.check_running(lane.worker.status)
        if lane.worker.execution.backend == "unconnected":
            if name not in self._restoring:
                lane.still = False
                self._restoring.begin(name, self._restore(lane))
            await self._restoring.outcome(name)
        decide.check_connected(lane.worker.status, lane.worker.execution)

    async def _restore(self, lane: Lane) -> None:
        worker, context = lane.worker, self._context
        page = context.limits.transcript_page
        lane.reconnect()
        history = await context.store.newest_entries(worker.worker_id, worker.transcript_len, page)
        most = context.limits.max_open_text
        await self._spawn(lane, Spawn(worker.worker_id, worker.request, tuple(history), most))

    async def restore_all(self, lanes: Iterable[Lane]) -> None:
        """Bring back these Workers, `max_restores` at once; what became of it is told in their `execution`."""
        left = iter(lanes)
        await asyncio.gather(*(self._restore_some(left) for _ in range(self._context.limits.max_restores)))

    async def _restore_some(self, lanes: Iterator[Lane]) -> None:
        for lane in lanes:
            with contextlib.suppress(RuntimedError):
                await self.restore(lane)

    async def interrupt(self, lane: Lane) -> None:
        """End the current run; changes nothing where none goes on. Raises WorkerExecutionRejected."""
        if lane.worker.worker_id in self._ending:
            await self._ending.over(lane.worker.worker_id)
        elif lane.worker.execution.backend == "connected":
            answer = await ask(self._context.attached.interrupt(lane.worker.worker_id))
            if answer.outcome != "accepted":
                raise WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")
            await lane.propose(decide.nothing)

    def check_not_ending(self, lane: Lane) -> None:
        """Raises InvalidRequest for a Worker that is being ended."""
        if lane.worker.worker_id in self._ending:
            raise InvalidRequest("the Worker is being stopped: only a running Worker takes input")

    async def end(self, ref: WorkerRef, operation: Operation, reason: str | None) -> LifecycleAck:
        """Stop or cancel a Worker; changes nothing where it is not running."""
        lane = self._context.catalog.lane(ref)
        if lane.worker.status == "running":
            self._context.check_open()
            if ref.worker_id not in self._ending:
                self._ending.begin(ref.worker_id, self._end(lane, operation, reason))
            elif operation == "cancel" and self._context.backend is not None:
                await ask(self._context.backend.cancel(ref.worker_id, reason))
            await self._ending.outcome(ref.worker_id)
        return views.lifecycle_ack(ref, lane.worker)

    async def _end(self, lane: Lane, operation: Operation, reason: str | None) -> None:
        name, backend = lane.worker.worker_id, self._context.backend
        self._restarts.forget(name)
        await self._cut_spawns(name)
        await self._creating.over(name)
        await self._restoring.over(name)
        lane.still = True
        answer = Answer("accepted")
        if backend is not None:
            end = backend.cancel if operation == "cancel" else backend.stop
            answer = await ask(end(name, reason))
        decision = partial(decide.end_worker, operation=operation, answer=answer, reason=reason)
        lane.disconnect()
        await lane.propose(decision, keep=True)

    async def delete(self, ref: WorkerRef) -> None:
        """See Runtime."""
        name = ref.worker_id
        if not self._context.catalog.is_damaged(name):
            self._context.catalog.lane(ref)
        if name not in self._deleting:
            self._deleting.begin(name, self._delete(name))
        await self._deleting.outcome(name)

    async def _delete(self, name: WorkerId) -> None:
        context = self._context
        lane = context.catalog.find(name)
        if lane is None or context.catalog.is_damaged(name):
            await context.pipeline.apply(Change(deleted=name), _nothing)
        else:
            await lane.propose(decide.delete_worker)
        self._restarts.forget(name)
        context.catalog.remove(name)
        context.remarks.drop_worker(name)
        context.pages.forget(name)
        context.pipeline.forget(name)
        self.purge(name)

    def purge(self, name: WorkerId) -> None:
        """Begin to remove what is left of a deleted Worker, which nobody can read any more."""
        self._purging.begin(name, self._purge(name))

    async def _purge(self, name: WorkerId) -> None:
        failure = await self._delete_from_backend(name)
        if name in self._context.remarks:  # of an earlier failure
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
        remarks = self._context.remarks
        await self._context.pipeline.apply(Change(deleted=name), partial(remarks.drop_worker, name))

    async def _keep_failure(self, name: WorkerId, failure: str) -> None:
        context = self._context
        await self._keep_deleted(name)
        message = f"the Worker is deleted, but something of it is left: {failure}; the next start tries again"
        remark = context.pipeline.remark(Diagnostic("worker.delete_failed", "error", message, name))
        await context.pipeline.apply(Change(remarks=(remark,)), partial(context.remarks.keep, (remark,)))

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
