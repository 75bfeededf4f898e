"""The next Change of one Worker, while it is being decided."""

from collections.abc import Callable

from runtimed.core.activity import Activity
from runtimed.core.change import Change, Entry, Event, Worker
from runtimed.model.event import Payload
from runtimed.model.transcript import Role


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
        self._active_since = worker.active_since
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
        self._active_since = 0 if self.activity.quiet else self._active_since or sequence
        self._events.append(Event(sequence, worker_id, payload, self._active_since, self.transcript_len))
        return sequence

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
            self._active_since,
        )
        return None if self.worker == before else Change(self.worker, self._entries, self._events)
