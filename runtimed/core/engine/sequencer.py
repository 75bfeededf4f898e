"""The sequencer of a Runtime: it numbers changes, commits them, and publishes their events."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from runtimed.core.ports import Clock, Store
from runtimed.core.state.change import Change, EncodedEvent, NumberedDiagnostic, StoredState
from runtimed.core.state.idempotency_log import IdempotencyLog
from runtimed.errors import RuntimeStopped, StatePoisoned, StoreFull
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.runtime import RuntimeEvent, RuntimeEventKind

log = logging.getLogger(__name__)


class EventSubscriber(Protocol):
    """Receives published events."""

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """Receive events of one Worker that are durable and applied.

        Called on the event loop, in the order of their sequences.
        """

    def changed(self, worker_id: WorkerId) -> None:
        """Receive the news that a Change without events is applied to the Worker."""

    def forget(self, worker_id: WorkerId) -> None:
        """Handle the deletion of a Worker. No more events of it are published."""


class Sequencer:
    """Numbers and commits the Changes of all mailboxes, and publishes their events to subscribers.

    Attributes:
        head: The sequence of the newest published event, 0 for none.
        newest_diagnostic: The highest number of a diagnostic so far.
        newest_runtime_event: The highest id of a runtime event so far.
        idempotency: The keys of the requests that were carried out.
        loop: The event loop. Kept because Python 3.11 asks the kernel for the process id at each look-up of it.
        poisoned: Resolves to the cause once a write has failed permanently. Nothing is committed from then on.
    """

    def __init__(self, store: Store, clock: Clock, state: StoredState, max_idempotency_keys: int) -> None:
        """Continue the numbers of a store.

        Args:
            store: Where Changes are committed.
            clock: The time of events.
            state: What the store held at its start.
            max_idempotency_keys: How many idempotency keys are kept.
        """
        self.idempotency = IdempotencyLog(state.idempotency, max_idempotency_keys)
        self._idempotency_number = self.idempotency.newest
        self.head = state.head
        self.newest_diagnostic = state.diagnostic_number
        self.newest_runtime_event = state.runtime_event_id
        self.loop = asyncio.get_running_loop()
        self.poisoned: asyncio.Future[BaseException] = self.loop.create_future()
        self._allotted = state.head
        self._store = store
        self._clock = clock
        self._subscribers: list[EventSubscriber] = []
        self._closed = False

    def subscribe(self, subscriber: EventSubscriber) -> None:
        """Publish to this subscriber from now on."""
        self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: EventSubscriber) -> None:
        """Stop publishing to this subscriber."""
        self._subscribers.remove(subscriber)

    def next_sequence(self) -> int:
        """Allot the next sequence. It is never allotted again, whatever becomes of the Change."""
        self._allotted += 1
        return self._allotted

    def next_idempotency_number(self) -> int:
        """Allot the next number of an idempotency record."""
        self._idempotency_number += 1
        return self._idempotency_number

    def runtime_event(
        self,
        kind: RuntimeEventKind,
        worker_id: WorkerId | None = None,
        sequence: int | None = None,
        unix_ms: int | None = None,
        tenant: str | None = None,
        by: str | None = None,
    ) -> RuntimeEvent:
        """Return a new runtime event with the next id.

        Args:
            kind: What happened.
            worker_id: The Worker that it is about, if any.
            sequence: The sequence of the Worker's event that records the same, if any.
            unix_ms: When it happened, Unix time in milliseconds; None for now.
            tenant: The tenant of the Worker.
            by: The client that asked for it.
        """
        self.newest_runtime_event += 1
        cursor = None if sequence is None else cursor_of(sequence)
        time_ms = self.unix_ms() if unix_ms is None else unix_ms
        return RuntimeEvent(self.newest_runtime_event, kind, time_ms, worker_id, sequence, cursor, tenant, by)

    def unix_ms(self) -> int:
        """Return the Unix time in milliseconds."""
        return self._clock.unix_ms()

    def number(self, diagnostic: Diagnostic) -> NumberedDiagnostic:
        """Give a diagnostic the next number."""
        self.newest_diagnostic += 1
        return NumberedDiagnostic(self.newest_diagnostic, diagnostic)

    @property
    def commit_cost_s(self) -> float:
        """The processor time of the last commit in the store, in seconds."""
        return self._store.commit_cost_s

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """Commit a Change.

        Returns:
            A future of the events as encoded bytes.

        Raises:
            StatePoisoned: An earlier write has failed permanently.
            RuntimeStopped: The Runtime is closed.
        """
        if self.poisoned.done():
            raise StatePoisoned
        if self._closed:
            raise RuntimeStopped
        committed = self._store.commit(change)
        if change.idempotency:  # first of the callbacks: whoever learns of the commit finds the keys
            committed.add_done_callback(partial(self._apply, partial(self.idempotency.keep, change.idempotency)))
        return committed

    async def commit_and_apply(self, change: Change, apply: Callable[[], None]) -> None:
        """Commit a Change that belongs to no mailbox, and call `apply` then, even if the caller is cancelled."""
        committed = self.commit(change)
        committed.add_done_callback(partial(self._apply, apply))
        await asyncio.wait([committed])  # a shield would return at once where it is done, before it is applied
        committed.result()

    def _apply(self, apply: Callable[[], None], committed: asyncio.Future[Sequence[EncodedEvent]]) -> None:
        if self.failure_of(committed) is None:
            apply()

    def failure_of(self, committed: asyncio.Future[Sequence[EncodedEvent]]) -> BaseException | None:
        """Return why a commit failed, or None. Any failure but a full disk or a close poisons the Runtime."""
        error = committed.exception()
        if error is None or isinstance(error, StoreFull | RuntimeStopped):
            return error
        if not self.poisoned.done():
            log.error("the store failed: nothing more is accepted", extra={"reason": error})
            self.poisoned.set_result(error)
        return error

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """Publish what a Change of a Worker has brought, once it is durable and applied."""
        if not events:
            self._notify(lambda subscriber: subscriber.changed(worker_id))
            return
        self.head = events[-1].sequence
        self._notify(lambda subscriber: subscriber.publish(worker_id, events))

    def forget(self, worker_id: WorkerId) -> None:
        """Tell subscribers that a Worker is deleted."""
        self._notify(lambda subscriber: subscriber.forget(worker_id))

    def _notify(self, notify: Callable[[EventSubscriber], None]) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                notify(subscriber)
            except Exception:
                log.exception("a subscriber failed")

    def close(self) -> None:
        """Commit nothing more."""
        self._closed = True
