"""How inputs get to the backend."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import cast

from runtimed.core import decide, views
from runtimed.core.change import Turn, Waiting
from runtimed.core.context import Context, ask
from runtimed.core.lane import Lane
from runtimed.core.lifecycle import Lifecycle
from runtimed.core.offers import Offers
from runtimed.core.paging import PageSize
from runtimed.core.ports import Answer, Dispatch
from runtimed.errors import RuntimedError, StoreError, WorkerExecutionRejected
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
        self._offers = Offers()
        self._giving: dict[WorkerId, asyncio.Task[None]] = {}
        self._put_off: dict[WorkerId, asyncio.TimerHandle] = {}
        self._cutting: dict[WorkerId, asyncio.Task[None]] = {}

    async def send(self, ref: WorkerRef, message: WorkerInput) -> InteractionAck:
        """See Runtime."""
        lane = self._context.catalog.lane(ref)
        await self._ready(lane, message)
        if message.when_busy != "reject":
            return await self._send_patiently(ref, lane, message)
        answer = await self._offer(lane, message)
        if isinstance(answer, Answer):
            raise await self._refusal(lane, answer)
        return _ack(ref, lane, *answer)

    async def _send_patiently(self, ref: WorkerRef, lane: Lane, message: WorkerInput) -> InteractionAck:
        for always in (False, True):
            waiting = await self._queue(lane, message, always=always)
            if waiting is not None:
                return _ack(ref, lane, waiting.entry, waiting.event, queued=True)
            answer = await self._offer(lane, message)
            if not isinstance(answer, Answer):
                return _ack(ref, lane, *answer)
            if answer.outcome != "busy":
                raise await self._refusal(lane, answer)
        raise WorkerExecutionRejected(decide.WAITING)

    async def interrupt(self, ref: WorkerRef) -> LifecycleAck:
        """See Runtime."""
        lane = self._context.catalog.lane(ref)
        if lane.worker.status == "running":
            self._context.check_open()
            await self._given(lane)
            await self._lifecycle.interrupt(lane)
        return views.lifecycle_ack(ref, lane.worker)

    async def close(self) -> None:
        """Give nothing more to the backend. What has waited and was not begun waits for the next life."""
        for timer in self._put_off.values():
            timer.cancel()
        tasks = {*self._giving.values(), *self._cutting.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ready(self, lane: Lane, message: WorkerInput) -> None:
        """Bring back a Worker that nothing runs. Raises what keeps an input from being taken."""
        self._context.check_open()
        self._lifecycle.check_not_ending(lane)
        decide.check_content(lane.worker.status, message)
        state = lane.worker.execution.run_state
        lost = state == "errored" and lane.restart != "never"
        if self._context.backend and (lost or (self._lazy and state == "unconnected")):
            await self._lifecycle.restore(lane)
            self._context.check_open()
            self._lifecycle.check_not_ending(lane)
        decide.check_connected(lane.worker.status, lane.worker.execution)

    async def _offer(self, lane: Lane, message: WorkerInput) -> tuple[int, int] | Answer:
        """Have the backend take an input, and store it: the sequences of its entry and its event, or the refusal."""
        name, backend = lane.worker.worker_id, self._context.attached
        if lane.turn or lane.worker.waiting:
            return Answer("busy", decide.WAITING)
        self._offers.add(name)
        dispatch = self._numbered(name, message)
        try:
            answer = await self._dispatch(dispatch)
        except BaseException:
            self._offers.remove(name)
            raise
        if answer.outcome != "accepted":
            self._offers.remove(name)
            return answer

        def done(tell: Callable[[WorkerId, str], None]) -> None:
            self._offers.remove(name)
            tell(name, dispatch.input_id)

        try:
            stored: tuple[int, int] = await lane.propose(
                partial(decide.take_input, message=message),
                committed=partial(done, backend.start),
                abandoned=partial(done, backend.withdraw),
            )
        except WorkerExecutionRejected as error:
            return Answer("busy", error.message)
        return stored

    async def _refusal(self, lane: Lane, answer: Answer) -> WorkerExecutionRejected:
        await lane.propose(partial(decide.refuse_input, answer=answer))
        return WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")

    def _numbered(self, name: WorkerId, message: WorkerInput) -> Dispatch:
        return Dispatch(name, f"{self._life}-{next(self._numbers)}", message)

    async def _dispatch(self, dispatch: Dispatch) -> Answer:
        try:
            return await ask(self._context.attached.dispatch(dispatch))
        except asyncio.CancelledError:
            self._context.attached.withdraw(dispatch.worker_id, dispatch.input_id)
            raise

    async def _queue(self, lane: Lane, message: WorkerInput, *, always: bool) -> Waiting | None:
        """Store an input that waits; None where nothing goes on, unless it is `always` to wait."""
        most = self._context.limits.max_queued_inputs
        try:
            waiting: Waiting | None = await lane.propose(
                partial(decide.queue_input, message=message, most=most, always=always)
            )
        except WorkerExecutionRejected as error:
            raise await self._refusal(lane, Answer("busy", error.message)) from None
        name = lane.worker.worker_id
        if waiting is not None and message.when_busy == "interrupt" and name not in self._cutting:
            self._cutting[name] = asyncio.get_running_loop().create_task(self._cut_for(lane, waiting), name=name)
        return waiting

    async def _cut_for(self, lane: Lane, waiting: Waiting) -> None:
        """Interrupt the run that an input waits for, unless it is over by now."""
        name = lane.worker.worker_id
        try:
            await self._given(lane)
            if waiting in lane.worker.waiting:
                await self._lifecycle.interrupt(lane)
        except RuntimedError as error:
            log.warning("%s could not be interrupted: %s", name, error.message)
        finally:
            del self._cutting[name]

    def give(self, lane: Lane) -> None:
        """Give the input whose turn it is to the backend, and those that come behind it, unless all is ending."""
        name = lane.worker.worker_id
        if name not in self._giving and not self._context.closing:
            self._giving[name] = asyncio.get_running_loop().create_task(self._give_all(lane), name=name)

    async def _given(self, lane: Lane) -> None:
        while task := self._giving.get(lane.worker.worker_id):
            await asyncio.wait({task})

    async def _give_all(self, lane: Lane) -> None:
        given = None
        try:
            while lane.turn not in (None, given):
                given = lane.turn
                await self._give_one(lane, given)
        finally:
            del self._giving[lane.worker.worker_id]

    async def _give_one(self, lane: Lane, turn: Turn) -> None:
        try:
            await self._give(lane, turn)
        except RuntimedError as error:
            log.debug("%s: an input that has waited is not given now: %s", lane.worker.worker_id, error.message)
        except Exception:
            log.exception("%s: an input that has waited could not be given", lane.worker.worker_id)

    async def _give(self, lane: Lane, turn: Turn) -> None:
        name, backend = lane.worker.worker_id, self._context.attached
        await self._offers.settled(name)
        try:
            dispatch = self._numbered(name, await self._waited(name, turn.input))
            answer = await self._dispatch(dispatch)
        except StoreError as error:
            answer = Answer("errored", error.message)
        if answer.outcome == "accepted":
            await lane.propose(
                partial(decide.begin_turn, turn=turn),
                committed=partial(backend.start, name, dispatch.input_id),
                abandoned=partial(backend.withdraw, name, dispatch.input_id),
                keep=True,
            )
        elif answer.outcome == "busy":
            self._ask_again(lane)
            await lane.propose(partial(decide.put_off_turn, turn=turn), keep=True)
        else:
            await lane.propose(partial(decide.refuse_turn, turn=turn, answer=answer), keep=True)

    def _ask_again(self, lane: Lane) -> None:
        name = lane.worker.worker_id
        if name not in self._put_off:
            self._put_off[name] = asyncio.get_running_loop().call_later(BUSY_RETRY_S, self._take_turn, lane)

    def _take_turn(self, lane: Lane) -> None:
        del self._put_off[lane.worker.worker_id]
        lane.leave(decide.next_turn)

    async def _waited(self, name: WorkerId, waiting: Waiting) -> WorkerInput:
        (entry,) = await self._context.store.read_entries(name, waiting.entry - 1, ONE)
        return WorkerInput(cast("InputKind", entry.role), entry.content)


def _ack(ref: WorkerRef, lane: Lane, entry: int, event: int, *, queued: bool = False) -> InteractionAck:
    return InteractionAck(ref, lane.worker.status, entry, event, cursor_of(event), queued)
