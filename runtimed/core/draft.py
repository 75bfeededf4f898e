"""The next Change of one Worker, while it is being decided."""

from collections.abc import Callable
from typing import TypeVar

from runtimed.core.activity import Activity
from runtimed.core.change import Change, Entry, Event, Worker
from runtimed.model.event import Payload
from runtimed.model.transcript import Role

T = TypeVar("T")


class Draft:
    """Begins with a Worker as it is and collects what decisions make of it; `change` is the outcome.

    `status` and `execution` are there to be assigned; nothing that the Draft was made from is changed. `worker` is
    the row as it was, and from `change` on as it will be.
    """

    def __init__(self, worker: Worker, activity: Activity, next_sequence: Callable[[], int]) -> None:
        self.worker = worker
        self.status = worker.status
        self.execution = worker.execution
        self.activity = activity
        self.transcript_len = worker.transcript_len
        self._next_sequence = next_sequence
        self._since = worker.since
        self._entries: list[Entry] = []
        self._events: list[Event] = []

    def emit(self, payload: Payload, role: Role | None = None, content: str = "") -> int:
        """Add an event, with a `role` also the entry that it tells of, and return its sequence."""
        sequence = self._next_sequence()
        worker_id = self.worker.worker_id
        if role is not None:
            self.transcript_len += 1
            self._entries.append(Entry(worker_id, self.transcript_len, role, content, sequence))
        self.activity = self.activity.after(payload)
        self._since = self._since or sequence if self.activity.blocks else 0
        self._events.append(
            Event(sequence, worker_id, payload, self._since, self.transcript_len, self.activity.status)
        )
        return sequence

    def attempt(self, decide: Callable[["Draft"], T]) -> T:
        """Take a decision; one that raises leaves the Draft as it was."""
        before = (self.status, self.execution, self.activity, self.transcript_len, self._since)
        entries, events = len(self._entries), len(self._events)
        try:
            return decide(self)
        except BaseException:
            self.status, self.execution, self.activity, self.transcript_len, self._since = before
            del self._entries[entries:], self._events[events:]
            raise

    def change(self) -> Change | None:
        """What was decided, or None where nothing was."""
        before = self.worker
        self.worker = Worker(
            before.worker_id,
            before.request,
            self.status,
            self.execution,
            self.transcript_len,
            self._events[-1].sequence if self._events else before.last_sequence,
            self._since,
            self.activity.status,
        )
        return None if self.worker == before else Change(self.worker, self._entries, self._events)
