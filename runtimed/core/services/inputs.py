"""How inputs get to the backend."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import cast

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.paging import PageSize
from runtimed.core.ports import Dispatch
from runtimed.core.services import views
from runtimed.core.services.context import Context, ask
from runtimed.core.services.lifecycle import Lifecycle
from runtimed.core.services.pending_dispatches import PendingDispatches
from runtimed.core.state import decisions
from runtimed.core.state.change import DispatchOffer, QueuedInput
from runtimed.errors import RuntimedError, StoreError, WorkerExecutionRejected
from runtimed.model.execution import BackendAnswer
from runtimed.model.identity import WorkerId, WorkerRef, cursor_of
from runtimed.model.interaction import InputKind, InteractionAck, LifecycleAck, WorkerInput

ONE = PageSize(1, 1)

BUSY_RETRY_S = 0.5
"""How long until a backend that was amid a run of its own is asked again, unless it tells of the run's end before."""

log = logging.getLogger(__name__)


class Inputs:
    """Offers inputs to the backend, stores them and has them run; in that order, so that none runs that is lost.

    One that finds a run going on may be stored at once and wait. It is offered once that run is over, and again where
    the backend is busy all the same; it waits until the Change that tells of its start, and runs once. No other gets
    between. `lazy` is whether an input brings back a Worker that nothing runs since the start. One that was lost
    since is brought back unless its policy is `never`.
    """

    def __init__(self, context: Context, lifecycle: Lifecycle, *, lazy: bool) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._lazy = lazy
        self._life = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._pending = PendingDispatches()
        self._giving: dict[WorkerId, asyncio.Task[None]] = {}
        self._put_off: dict[WorkerId, asyncio.TimerHandle] = {}
        self._cutting: dict[WorkerId, asyncio.Task[None]] = {}

    async def send(self, ref: WorkerRef, message: WorkerInput) -> InteractionAck:
        """See Runtime."""
        mailbox = self._context.registry.mailbox(ref)
        await self._ready(mailbox, message)
        if message.when_busy != "reject":
            return await self._send_patiently(ref, mailbox, message)
        answer = await self._offer(mailbox, message)
        if isinstance(answer, BackendAnswer):
            raise await self._refusal(mailbox, answer)
        return _ack(ref, mailbox, *answer)

    async def _send_patiently(self, ref: WorkerRef, mailbox: Mailbox, message: WorkerInput) -> InteractionAck:
        for always in (False, True):
            waiting = await self._queue(mailbox, message, always=always)
            if waiting is not None:
                return _ack(ref, mailbox, waiting.entry, waiting.event, queued=True)
            answer = await self._offer(mailbox, message)
            if not isinstance(answer, BackendAnswer):
                return _ack(ref, mailbox, *answer)
            if answer.outcome != "busy":
                raise await self._refusal(mailbox, answer)
        raise WorkerExecutionRejected(decisions.WAITING)

    async def interrupt(self, ref: WorkerRef) -> LifecycleAck:
        """See Runtime."""
        mailbox = self._context.registry.mailbox(ref)
        if mailbox.worker.status == "running":
            self._context.check_open()
            await self._given(mailbox)
            await self._lifecycle.interrupt(mailbox)
        return views.lifecycle_ack(ref, mailbox.worker)

    async def close(self) -> None:
        """Give nothing more to the backend. What has waited and was not begun waits for the next life."""
        for timer in self._put_off.values():
            timer.cancel()
        tasks = {*self._giving.values(), *self._cutting.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ready(self, mailbox: Mailbox, message: WorkerInput) -> None:
        """Bring back a Worker that nothing runs. Raises what keeps an input from being taken."""
        self._context.check_open()
        self._lifecycle.check_not_ending(mailbox)
        decisions.check_content(mailbox.worker.status, message)
        state = mailbox.worker.execution.run_state
        lost = state == "errored" and mailbox.restart != "never"
        if self._context.backend and (lost or (self._lazy and state == "unconnected")):
            await self._lifecycle.restore(mailbox)
            self._context.check_open()
            self._lifecycle.check_not_ending(mailbox)
        decisions.check_connected(mailbox.worker.status, mailbox.worker.execution)

    async def _offer(self, mailbox: Mailbox, message: WorkerInput) -> tuple[int, int] | BackendAnswer:
        """Have the backend take an input, and store it: the sequences of its entry and its event, or the refusal."""
        name, backend = mailbox.worker.worker_id, self._context.attached
        if mailbox.offer or mailbox.worker.queued:
            return BackendAnswer("busy", decisions.WAITING)
        self._pending.add(name)
        dispatch = self._numbered(name, message)
        try:
            answer = await self._dispatch(dispatch)
        except BaseException:
            self._pending.remove(name)
            raise
        if answer.outcome != "accepted":
            self._pending.remove(name)
            return answer

        def done(tell: Callable[[WorkerId, str], None]) -> None:
            self._pending.remove(name)
            tell(name, dispatch.input_id)

        try:
            stored: tuple[int, int] = await mailbox.submit(
                partial(decisions.accept_input, message=message),
                committed=partial(done, backend.start),
                abandoned=partial(done, backend.withdraw),
            )
        except WorkerExecutionRejected as error:
            return BackendAnswer("busy", error.message)
        return stored

    async def _refusal(self, mailbox: Mailbox, answer: BackendAnswer) -> WorkerExecutionRejected:
        await mailbox.submit(partial(decisions.refuse_input, answer=answer))
        return WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")

    def _numbered(self, name: WorkerId, message: WorkerInput) -> Dispatch:
        return Dispatch(name, f"{self._life}-{next(self._numbers)}", message)

    async def _dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        try:
            return await ask(self._context.attached.dispatch(dispatch))
        except asyncio.CancelledError:
            self._context.attached.withdraw(dispatch.worker_id, dispatch.input_id)
            raise

    async def _queue(self, mailbox: Mailbox, message: WorkerInput, *, always: bool) -> QueuedInput | None:
        """Store an input that waits; None where nothing goes on, unless it is `always` to wait."""
        most = self._context.limits.max_queued_inputs
        try:
            waiting: QueuedInput | None = await mailbox.submit(
                partial(decisions.queue_input, message=message, most=most, always=always)
            )
        except WorkerExecutionRejected as error:
            raise await self._refusal(mailbox, BackendAnswer("busy", error.message)) from None
        name = mailbox.worker.worker_id
        if waiting is not None and message.when_busy == "interrupt" and name not in self._cutting:
            self._cutting[name] = asyncio.get_running_loop().create_task(self._cut_for(mailbox, waiting), name=name)
        return waiting

    async def _cut_for(self, mailbox: Mailbox, waiting: QueuedInput) -> None:
        """Interrupt the run that an input waits for, unless it is over by now."""
        name = mailbox.worker.worker_id
        try:
            await self._given(mailbox)
            if waiting in mailbox.worker.queued:
                await self._lifecycle.interrupt(mailbox)
        except RuntimedError as error:
            log.warning("%s could not be interrupted: %s", name, error.message)
        finally:
            del self._cutting[name]

    def give(self, mailbox: Mailbox) -> None:
        """Give the input whose turn it is to the backend, and those that come behind it, unless all is ending."""
        name = mailbox.worker.worker_id
        if name not in self._giving and not self._context.closing:
            self._giving[name] = asyncio.get_running_loop().create_task(self._give_all(mailbox), name=name)

    async def _given(self, mailbox: Mailbox) -> None:
        while task := self._giving.get(mailbox.worker.worker_id):
            await asyncio.wait({task})

    async def _give_all(self, mailbox: Mailbox) -> None:
        given = None
        try:
            while mailbox.offer not in (None, given):
                given = mailbox.offer
                await self._give_one(mailbox, given)
        finally:
            del self._giving[mailbox.worker.worker_id]

    async def _give_one(self, mailbox: Mailbox, offer: DispatchOffer) -> None:
        try:
            await self._give(mailbox, offer)
        except RuntimedError as error:
            log.debug("%s: an input that has waited is not given now: %s", mailbox.worker.worker_id, error.message)
        except Exception:
            log.exception("%s: an input that has waited could not be given", mailbox.worker.worker_id)

    async def _give(self, mailbox: Mailbox, offer: DispatchOffer) -> None:
        name, backend = mailbox.worker.worker_id, self._context.attached
        await self._pending.settled(name)
        try:
            dispatch = self._numbered(name, await self._waited(name, offer.input))
            answer = await self._dispatch(dispatch)
        except StoreError as error:
            answer = BackendAnswer("errored", error.message)
        if answer.outcome == "accepted":
            await mailbox.submit(
                partial(decisions.start_queued_input, offer=offer),
                committed=partial(backend.start, name, dispatch.input_id),
                abandoned=partial(backend.withdraw, name, dispatch.input_id),
                keep=True,
            )
        elif answer.outcome == "busy":
            self._ask_again(mailbox)
            await mailbox.submit(partial(decisions.postpone_offer, offer=offer), keep=True)
        else:
            await mailbox.submit(partial(decisions.reject_queued_input, offer=offer, answer=answer), keep=True)

    def _ask_again(self, mailbox: Mailbox) -> None:
        name = mailbox.worker.worker_id
        if name not in self._put_off:
            self._put_off[name] = asyncio.get_running_loop().call_later(BUSY_RETRY_S, self._take_turn, mailbox)

    def _take_turn(self, mailbox: Mailbox) -> None:
        del self._put_off[mailbox.worker.worker_id]
        mailbox.submit_nowait(decisions.offer_next_input)

    async def _waited(self, name: WorkerId, waiting: QueuedInput) -> WorkerInput:
        (entry,) = await self._context.store.read_entries(name, waiting.entry - 1, ONE)
        return WorkerInput(cast("InputKind", entry.role), entry.content)


def _ack(ref: WorkerRef, mailbox: Mailbox, entry: int, event: int, *, queued: bool = False) -> InteractionAck:
    return InteractionAck(ref, mailbox.worker.status, entry, event, cursor_of(event), queued)
