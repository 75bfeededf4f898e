"""How inputs get to the backend."""

import asyncio
import itertools
import secrets
from functools import partial

from runtimed.core import decide
from runtimed.core.context import Context, ask
from runtimed.core.lifecycle import Lifecycle
from runtimed.core.ports import Answer, Dispatch
from runtimed.errors import WorkerExecutionRejected
from runtimed.model.identity import WorkerRef, event_id
from runtimed.model.interaction import InteractionAck, WorkerInput


class Inputs:
    """Offers inputs to the backend, stores them and has them run; in that order, so that none runs that is lost."""

    def __init__(self, context: Context, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._life = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    async def send(self, ref: WorkerRef, message: WorkerInput) -> InteractionAck:
        """See Runtime."""
        lane = self._context.catalog.lane(ref)
        self._context.check_open()
        self._lifecycle.check_not_ending(lane)
        decide.check_input(lane.worker.status, lane.worker.execution, message)
        input_id = f"{self._life}-{next(self._numbers)}"
        answer = await self._dispatch(Dispatch(ref.worker_id, input_id, message))
        if answer.outcome != "accepted":
            await lane.propose(partial(decide.refuse_input, answer=answer))
            raise WorkerExecutionRejected(answer.message or f"the backend answered {answer.outcome}")
        backend = self._context.attached
        entry, sequence = await lane.propose(
            partial(decide.take_input, message=message),
            committed=partial(backend.start, ref.worker_id, input_id),
            abandoned=partial(backend.withdraw, ref.worker_id, input_id),
        )
        return InteractionAck(ref, lane.worker.status, entry, event_id(sequence))

    async def _dispatch(self, dispatch: Dispatch) -> Answer:
        try:
            return await ask(self._context.attached.dispatch(dispatch))
        except asyncio.CancelledError:
            self._context.attached.withdraw(dispatch.worker_id, dispatch.input_id)
            raise
