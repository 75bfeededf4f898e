"""Inputs of Workers: take them, queue them, interrupt for them."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from runtimed.core.engine.backend_client import BackendClient
from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.ports import Dispatch
from runtimed.core.services import views
from runtimed.core.services.admission import Admission
from runtimed.core.services.idempotency import Idempotency
from runtimed.core.services.lifecycle import Lifecycle
from runtimed.core.services.queue_dispatcher import DispatchFactory, PendingDispatches, QueueDispatcher
from runtimed.core.state import decisions
from runtimed.core.state.attachment_rules import check_accepted, check_attachments
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import IdempotencyRecord, QueuedInput
from runtimed.errors import InvalidRequest, RuntimedError, WorkerExecutionRejected, WorkerExecutionUnavailable
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import WorkerId, WorkerRef, cursor_of
from runtimed.model.interaction import InteractionAck, LifecycleAck, WorkerInput

log = logging.getLogger(__name__)


class Inputs:
    """Dispatches an input to the backend, commits it, then lets it run: an input that is not stored never runs.

    An input that arrives during a run may be queued. Nothing overtakes a queued input.
    """

    def __init__(
        self,
        registry: WorkerRegistry,
        backend: BackendClient,
        limits: Limits,
        admission: Admission,
        lifecycle: Lifecycle,
        queue: QueueDispatcher,
        dispatches: DispatchFactory,
        pending: PendingDispatches,
        idempotency: Idempotency,
        *,
        lazy: bool,
    ) -> None:
        """Make the service.

        Args:
            registry: The Workers.
            backend: Runs them.
            limits: Bounds of the Runtime.
            admission: Whether requests are taken.
            lifecycle: Restores and interrupts Workers.
            queue: Dispatches queued inputs.
            dispatches: Gives dispatches their ids.
            pending: The dispatches that are neither committed nor withdrawn; shared with `queue`.
            idempotency: Answers repeats.
            lazy: Restore a Worker that nothing runs since the start when it gets an input.
        """
        self._registry = registry
        self._backend = backend
        self.limits = limits
        self._admission = admission
        self._lifecycle = lifecycle
        self._queue = queue
        self._dispatches = dispatches
        self._pending = pending
        self._idempotency = idempotency
        self._lazy = lazy
        # KeyedTasks would forget a task one step of the loop after its end; an interrupt in that step would be lost.
        self._interrupting: dict[WorkerId, asyncio.Task[None]] = {}

    async def send(self, ref: WorkerRef, message: WorkerInput, key: IdempotencyKey | None, by: str) -> InteractionAck:
        """Take an input, as Runtime.send_input says; `by` is the client, as events name it."""
        if key is None:
            return await self._send(ref, message, None, by)
        first, again = partial(self._send, ref, message, key, by), partial(_acknowledge_again, ref)
        return await self._idempotency.once(key, first, again)

    async def send_or_record_refusal(
        self, ref: WorkerRef, message: WorkerInput, key: IdempotencyKey | None, by: str
    ) -> InteractionAck:
        """Take an input as `send` does. Whatever refuses it, the Worker's `execution` shows it."""
        try:
            return await self.send(ref, message, key, by)
        except (InvalidRequest, WorkerExecutionUnavailable) as error:
            mailbox = self._registry.mailbox(ref)
            if mailbox.worker.status == "running":
                raise await self._refusal(mailbox, BackendAnswer("rejected", error.message)) from None
            raise

    async def _send(
        self, ref: WorkerRef, message: WorkerInput, key: IdempotencyKey | None, by: str
    ) -> InteractionAck:
        mailbox = self._registry.mailbox(ref)
        await self._make_ready(mailbox, message)
        if message.when_busy != "reject":
            return await self._send_or_queue(ref, mailbox, message, key, by)
        answer = await self._dispatch(mailbox, message, key, by)
        if isinstance(answer, BackendAnswer):
            raise await self._refusal(mailbox, answer)
        return _ack(ref, *answer)

    async def _send_or_queue(
        self, ref: WorkerRef, mailbox: Mailbox, message: WorkerInput, key: IdempotencyKey | None, by: str
    ) -> InteractionAck:
        for always in (False, True):
            queued = await self._enqueue(mailbox, message, key, by, always=always)
            if queued is not None:
                return _ack(ref, queued.entry, queued.event, queued=True)
            answer = await self._dispatch(mailbox, message, key, by)
            if not isinstance(answer, BackendAnswer):
                return _ack(ref, *answer)
            if answer.outcome != "busy":
                raise await self._refusal(mailbox, answer)
        raise WorkerExecutionRejected(decisions.WAITING)

    async def interrupt(self, ref: WorkerRef) -> LifecycleAck:
        """Interrupt the current run, as Runtime.interrupt_worker says."""
        mailbox = self._registry.mailbox(ref)
        if mailbox.worker.status == "running":
            self._admission.check()
            await self._queue.idle(mailbox.worker.worker_id)
            await self._lifecycle.interrupt(mailbox)
        return views.lifecycle_ack(ref, mailbox.worker)

    async def close(self) -> None:
        """Cancel interrupts that are under way."""
        tasks = tuple(self._interrupting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_ready(self, mailbox: Mailbox, message: WorkerInput) -> None:
        """Restore a Worker that nothing runs. Raises why an input cannot be taken."""
        self._admission.check()
        self._lifecycle.check_not_ending(mailbox)
        decisions.check_content(mailbox.worker.status, message)
        if message.attachments:
            await asyncio.to_thread(check_attachments, message.attachments)
        state = mailbox.worker.execution.run_state
        lost = state == "errored" and mailbox.restart != "never"
        if self._backend.is_attached and (lost or (self._lazy and state == "unconnected")):
            await self._lifecycle.restore(mailbox)
            self._admission.check()
            self._lifecycle.check_not_ending(mailbox)
        decisions.check_connected(mailbox.worker.status, mailbox.worker.execution)
        check_accepted(message.attachments, mailbox.attachments)

    async def _dispatch(
        self, mailbox: Mailbox, message: WorkerInput, key: IdempotencyKey | None, by: str
    ) -> tuple[int, int] | BackendAnswer:
        """Dispatch an input and commit it. Returns the sequences of its entry and event, or the refusal."""
        name, backend = mailbox.worker.worker_id, self._backend
        if mailbox.offer or mailbox.worker.queued:
            return BackendAnswer("busy", decisions.WAITING)
        self._pending.add(name)
        dispatch = self._dispatches.make(name, message)
        try:
            answer = await backend.dispatch(dispatch)
        except BaseException:
            self._pending.remove(name)
            raise
        if answer.outcome != "accepted":
            self._pending.remove(name)
            return answer

        settle = partial(self._settle, dispatch)
        try:
            stored: tuple[int, int] = await mailbox.submit(
                partial(decisions.accept_input, message=message, key=key, by=by),
                committed=partial(settle, backend.start),
                abandoned=partial(settle, backend.withdraw),
            )
        except WorkerExecutionRejected as error:
            return BackendAnswer("busy", error.message)
        return stored

    def _settle(self, dispatch: Dispatch, notify: Callable[[WorkerId, str], None]) -> None:
        self._pending.remove(dispatch.worker_id)
        notify(dispatch.worker_id, dispatch.input_id)

    async def _refusal(self, mailbox: Mailbox, answer: BackendAnswer) -> WorkerExecutionRejected:
        await mailbox.submit(partial(decisions.refuse_input, answer=answer))
        return WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")

    async def _enqueue(
        self, mailbox: Mailbox, message: WorkerInput, key: IdempotencyKey | None, by: str, *, always: bool
    ) -> QueuedInput | None:
        """Queue an input. Returns None if the Worker is idle, unless `always`."""
        most = self.limits.max_queued_inputs
        try:
            queued: QueuedInput | None = await mailbox.submit(
                partial(decisions.queue_input, message=message, most=most, always=always, key=key, by=by)
            )
        except WorkerExecutionRejected as error:
            raise await self._refusal(mailbox, BackendAnswer("busy", error.message)) from None
        name = mailbox.worker.worker_id
        if queued is not None and message.when_busy == "interrupt" and name not in self._interrupting:
            interrupt = self._interrupt_for(mailbox, queued)
            self._interrupting[name] = asyncio.get_running_loop().create_task(interrupt, name=name)
        return queued

    async def _interrupt_for(self, mailbox: Mailbox, queued: QueuedInput) -> None:
        """Interrupt the current run if the input is still queued behind it."""
        name = mailbox.worker.worker_id
        try:
            await self._queue.idle(name)
            if queued in mailbox.worker.queued:
                await self._lifecycle.interrupt(mailbox)
        except RuntimedError as error:
            log.warning("cannot interrupt the Worker", extra={"worker_id": name, "reason": error.message})
        finally:
            del self._interrupting[name]


def _ack(ref: WorkerRef, entry: int, event: int, *, queued: bool = False) -> InteractionAck:
    """Return the acknowledgement of an input: when it was decided, the Worker was running."""
    return InteractionAck(ref, "running", entry, event, cursor_of(event), queued)


async def _acknowledge_again(ref: WorkerRef, record: IdempotencyRecord) -> InteractionAck:
    return _ack(ref, record.entry, record.event, queued=record.queued)
