"""Dispatch queued inputs to the backend, one after another, behind those that are pending."""

import asyncio
import itertools
import logging
import secrets
from functools import partial
from typing import cast

from runtimed.core.engine.backend_client import BackendClient
from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.paging import PageSize
from runtimed.core.ports import Dispatch, Store
from runtimed.core.services.admission import Admission
from runtimed.core.state import decisions
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import DispatchOffer, QueuedInput
from runtimed.errors import RuntimedError, StoreCorrupt, StoreError
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import Attachment, InputKind, WorkerInput

ONE = PageSize(1, 1)

BUSY_RETRY_S = 0.5
"""How long after a `busy` the backend is offered the input again, unless its run ends before."""

log = logging.getLogger(__name__)


class DispatchFactory:
    """Makes Dispatches with ids that are unique across restarts."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def make(self, worker_id: WorkerId, message: WorkerInput) -> Dispatch:
        """Return the Dispatch of an input to a Worker."""
        return Dispatch(worker_id, f"{self._prefix}-{next(self._numbers)}", message)


class PendingDispatches:
    """Counts the dispatches of each Worker that are neither committed nor withdrawn."""

    def __init__(self) -> None:
        self._counts: dict[WorkerId, int] = {}
        self._settled: dict[WorkerId, asyncio.Event] = {}

    def add(self, worker_id: WorkerId) -> None:
        """Count one more."""
        self._counts[worker_id] = self._counts.get(worker_id, 0) + 1

    def remove(self, worker_id: WorkerId) -> None:
        """Count one less: it is committed or withdrawn."""
        left = self._counts[worker_id] - 1
        if left:
            self._counts[worker_id] = left
        else:
            del self._counts[worker_id]
            if settled := self._settled.pop(worker_id, None):
                settled.set()

    async def settled(self, worker_id: WorkerId) -> None:
        """Wait until the Worker has no pending dispatch."""
        if worker_id in self._counts:
            await self._settled.setdefault(worker_id, asyncio.Event()).wait()


class QueueDispatcher:
    """Dispatches the first queued input of a Worker when its mailbox offers it.

    The input stays queued in the store until the Change that records its start, so it runs at most once. If the
    backend answers `busy`, the input is offered again.
    """

    def __init__(
        self,
        store: Store,
        backend: BackendClient,
        admission: Admission,
        dispatches: DispatchFactory,
        pending: PendingDispatches,
    ) -> None:
        self._store = store
        self._backend = backend
        self._admission = admission
        self._dispatches = dispatches
        self._pending = pending
        # KeyedTasks would forget a task one step of the loop after its end; an offer in that step would be lost.
        self._dispatching: dict[WorkerId, asyncio.Task[None]] = {}
        self._retries: dict[WorkerId, asyncio.TimerHandle] = {}

    def begin(self, mailbox: Mailbox) -> None:
        """Dispatch the input that the mailbox offers, and those that it offers next.

        Does nothing while the Runtime is draining or closing.
        """
        name = mailbox.worker.worker_id
        if name not in self._dispatching and self._admission.takes_work:
            task = asyncio.get_running_loop().create_task(self._dispatch_all(mailbox), name=name)
            self._dispatching[name] = task

    async def idle(self, worker_id: WorkerId) -> None:
        """Wait until no queued input of this Worker is on its way to the backend."""
        while task := self._dispatching.get(worker_id):
            await asyncio.wait({task})

    async def settled(self) -> None:
        """Wait until no queued input of any Worker is on its way to the backend."""
        while self._dispatching:
            await asyncio.wait(tuple(self._dispatching.values()))

    async def close(self) -> None:
        """Stop dispatching. Inputs that have not started stay queued in the store."""
        for timer in self._retries.values():
            timer.cancel()
        tasks = tuple(self._dispatching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch_all(self, mailbox: Mailbox) -> None:
        last = None
        try:
            while mailbox.offer not in (None, last) and self._admission.takes_work:
                last = mailbox.offer
                await self._try_dispatch(mailbox, last)
        finally:
            del self._dispatching[mailbox.worker.worker_id]

    async def _try_dispatch(self, mailbox: Mailbox, offer: DispatchOffer) -> None:
        try:
            await self._dispatch(mailbox, offer)
        except RuntimedError as error:
            fields = {"worker_id": mailbox.worker.worker_id, "reason": error.message}
            log.debug("a queued input cannot be dispatched yet", extra=fields)
        except Exception:
            log.exception("cannot dispatch a queued input", extra={"worker_id": mailbox.worker.worker_id})

    async def _dispatch(self, mailbox: Mailbox, offer: DispatchOffer) -> None:
        name, backend = mailbox.worker.worker_id, self._backend
        await self._pending.settled(name)
        try:
            dispatch = self._dispatches.make(name, await self._read(name, offer.input))
            answer = await backend.dispatch(dispatch)
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
            self._retry_later(mailbox)
            await mailbox.submit(partial(decisions.postpone_offer, offer=offer), keep=True)
        else:
            await mailbox.submit(partial(decisions.reject_queued_input, offer=offer, answer=answer), keep=True)

    async def _read(self, name: WorkerId, queued: QueuedInput) -> WorkerInput:
        (entry,) = await self._store.read_entries(name, queued.entry - 1, ONE)
        attachments = await self._read_attachments(name, queued) if queued.attachments else ()
        return WorkerInput(cast("InputKind", entry.role), entry.content, attachments=attachments)

    async def _read_attachments(self, name: WorkerId, queued: QueuedInput) -> tuple[Attachment, ...]:
        attachments = await self._store.read_attachments(name, queued.event)
        if len(attachments) != queued.attachments:
            raise StoreCorrupt(f"attachments of {name} are missing")
        return attachments

    def _retry_later(self, mailbox: Mailbox) -> None:
        name = mailbox.worker.worker_id
        if name not in self._retries:
            self._retries[name] = asyncio.get_running_loop().call_later(BUSY_RETRY_S, self._retry, mailbox)

    def _retry(self, mailbox: Mailbox) -> None:
        del self._retries[mailbox.worker.worker_id]
        mailbox.submit_nowait(decisions.offer_next_input)
