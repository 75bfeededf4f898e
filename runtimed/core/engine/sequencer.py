"""What is common to all changes of a Runtime: its numbers, one store, one row of listeners."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from runtimed.core.ports import Clock, Store
from runtimed.core.state.change import Change, EncodedEvent, NumberedDiagnostic, StoredState
from runtimed.errors import RuntimeStopped, StatePoisoned, StoreFull
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.runtime import RuntimeEvent, RuntimeEventKind

log = logging.getLogger(__name__)


class EventSubscriber(Protocol):
    """Somebody who is told of what was published."""

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """Events of one Worker, durable and applied; called on the event loop, in the order of their sequences."""

    def forget(self, worker_id: WorkerId) -> None:
        """The Worker was deleted; nothing more is published of it."""


class Sequencer:
    """What the lanes share: the store, the numbers, the listeners, and the knowledge that a write has failed.

    `head` is the sequence of the newest event that was published, `newest_remark` and `newest_runtime_event` are the
    numbers that were given out last. `loop` is the event loop of it all, kept because Python 3.11 asks the kernel for
    the process each time it is asked which loop runs.
    """

    def __init__(self, store: Store, clock: Clock, state: StoredState) -> None:
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
        """Tell this listener of all that is published from now on."""
        self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: EventSubscriber) -> None:
        """Tell this listener no more."""
        self._subscribers.remove(subscriber)

    def next_sequence(self) -> int:
        """Allot the next sequence; it is never allotted again."""
        self._allotted += 1
        return self._allotted

    def runtime_event(
        self, kind: RuntimeEventKind, worker_id: WorkerId | None = None, sequence: int | None = None
    ) -> RuntimeEvent:
        """The next runtime event, with its id and the time; `sequence` is that of the event that tells of it."""
        self.newest_runtime_event += 1
        cursor = None if sequence is None else cursor_of(sequence)
        return RuntimeEvent(self.newest_runtime_event, kind, self.unix_ms(), worker_id, sequence, cursor)

    def unix_ms(self) -> int:
        """The time, in milliseconds since 1970."""
        return self._clock.unix_ms()

    def diagnostic(self, diagnostic: Diagnostic) -> NumberedDiagnostic:
        """A diagnostic with the next number."""
        self.newest_diagnostic += 1
        return NumberedDiagnostic(self.newest_diagnostic, diagnostic)

    @property
    def commit_cost_s(self) -> float:
        """As Store.commit_cost_s."""
        return self._store.commit_cost_s

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """Hand a Change to the store. Raises StatePoisoned or RuntimeStopped where that is over."""
        if self.poisoned.done():
            raise StatePoisoned
        if self._closed:
            raise RuntimeStopped
        return self._store.commit(change)

    async def apply(self, change: Change, apply: Callable[[], None]) -> None:
        """Commit a Change that belongs to no lane, and apply it even if the caller is gone by then."""
        committed = self.commit(change)
        committed.add_done_callback(partial(self._apply, apply))
        await asyncio.wait([committed])  # a shield would return at once where it is done, before it is applied
        committed.result()

    def _apply(self, apply: Callable[[], None], committed: asyncio.Future[Sequence[EncodedEvent]]) -> None:
        if self.failed(committed) is None:
            apply()

    def failed(self, committed: asyncio.Future[Sequence[EncodedEvent]]) -> BaseException | None:
        """Why a commit failed, or None. Any failure that cannot be lived with poisons the Runtime."""
        error = committed.exception()
        if error is None or isinstance(error, StoreFull | RuntimeStopped):
            return error
        if not self.poisoned.done():
            log.error("the store failed, nothing more is accepted: %s", error)
            self.poisoned.set_result(error)
        return error

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """Tell the listeners of events that are durable and applied."""
        if not events:
            return
        self.head = events[-1].sequence
        self._tell(lambda subscriber: subscriber.publish(worker_id, events))

    def forget(self, worker_id: WorkerId) -> None:
        """Tell the listeners that a Worker is gone."""
        self._tell(lambda subscriber: subscriber.forget(worker_id))

    def _tell(self, tell: Callable[[EventSubscriber], None]) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                tell(subscriber)
            except Exception:
                log.exception("a listener failed")

    def close(self) -> None:
        """Commit nothing more."""
        self._closed = True
