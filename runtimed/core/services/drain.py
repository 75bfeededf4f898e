"""Let the runs of a Runtime end while it takes no new work."""

import asyncio
from collections.abc import Sequence

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.ports import Clock
from runtimed.core.services.admission import Admission
from runtimed.core.services.lifecycle import Lifecycle
from runtimed.core.services.queue_dispatcher import QueueDispatcher
from runtimed.core.state.change import EncodedEvent
from runtimed.model.identity import WorkerId
from runtimed.model.runtime import Drain


class Draining:
    """The drain of a Runtime: an EventSubscriber that knows which runs go on.

    Queued inputs are not dispatched any more: they stay in the store and run after the next start.
    """

    def __init__(
        self,
        admission: Admission,
        sequencer: Sequencer,
        registry: WorkerRegistry,
        lifecycle: Lifecycle,
        queue: QueueDispatcher,
        clock: Clock,
    ) -> None:
        self._admission = admission
        self._sequencer = sequencer
        self._registry = registry
        self._lifecycle = lifecycle
        self._queue = queue
        self._clock = clock
        self._busy: set[WorkerId] = set()
        self._no_runs = asyncio.Event()
        self._deadline = 0.0
        self._deadline_ms = 0

    def begin(self, drain_s: float) -> Drain:
        """Take no new work from now on. A repeat changes nothing.

        Args:
            drain_s: How long runs may go on, in seconds.

        Returns:
            The runs that go on, and until when.
        """
        if not self._admission.draining.is_set():
            self._deadline = self._sequencer.loop.time() + drain_s
            self._deadline_ms = self._clock.unix_ms() + round(drain_s * 1000)
            self._admission.drain()
            self._lifecycle.plan_no_restarts()
            self._sequencer.subscribe(self)
            self._busy = {mailbox.worker.worker_id for mailbox in self._registry if _is_busy(mailbox)}
            self._note()
        return Drain(len(self._busy), self._deadline_ms)

    async def over(self) -> None:
        """Wait until no run is left, or the time is up. Call `begin` before."""
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._admission.idle()
                await self._queue.settled()
                await self._no_runs.wait()
        except TimeoutError:
            return

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        self.changed(worker_id)

    def changed(self, worker_id: WorkerId) -> None:
        mailbox = self._registry.find(worker_id)
        if mailbox is not None and _is_busy(mailbox):
            self._busy.add(worker_id)
        else:
            self._busy.discard(worker_id)
        self._note()

    def forget(self, worker_id: WorkerId) -> None:
        self._busy.discard(worker_id)
        self._note()

    def _note(self) -> None:
        if self._busy:
            self._no_runs.clear()
        else:
            self._no_runs.set()


def _is_busy(mailbox: Mailbox) -> bool:
    return mailbox.worker.status == "running" and mailbox.worker.execution.run_state == "busy"
