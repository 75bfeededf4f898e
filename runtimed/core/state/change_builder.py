"""The next Change of one Worker, while it is being decided."""

from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from runtimed.core.state.activity import PERMISSION_RESOLVED, Activity
from runtimed.core.state.change import Change, DispatchOffer, Entry, Event, StateAt, Trim, TrimRange, Worker
from runtimed.model.event import Alert, AlertLevel, ErrorRaised, Payload, RunEnd, Shutdown, SystemItem, TextDelta
from runtimed.model.identity import WorkerId
from runtimed.model.permission import PermissionResolution, Ruling
from runtimed.model.runtime import RuntimeEvent, RuntimeEventKind
from runtimed.model.transcript import Role

END_OF_RUN = (RunEnd, ErrorRaised, Shutdown)
MAX_JOINED_TEXT = 16 * 1024
"""Characters that text deltas waiting for the same commit are joined up to."""

MissingEnd = Literal["none", "awaited", "added"]
"""Whether a run that an `error` has ended lacks its `run_end`, or got one that its backend did not say."""

T = TypeVar("T")


class Numbering(Protocol):
    """Gives out what is unique in a Runtime."""

    def next_sequence(self) -> int:
        """The next sequence of an event."""

    def runtime_event(
        self, kind: RuntimeEventKind, worker_id: WorkerId | None = None, sequence: int | None = None
    ) -> RuntimeEvent:
        """The next runtime event, with its id and the time."""

    def unix_ms(self) -> int:
        """The time, in milliseconds since 1970."""


class ChangeBuilder:
    """Begins with a Worker as it is and collects what decisions make of it; `change` is the outcome.

    `status`, `execution`, `waiting`, `turn` and `deleted` are there to be assigned; nothing that the Draft was made
    from is changed. `turn` is the offer of the first input that waits to the backend. `worker` is the row as
    it was, and from `change` on as it will be. `rulings` are to be told once it is committed. `missing_end` is about
    the latest run, `says_starts` is whether the backend has said `invoke_start`.
    """

    def __init__(
        self,
        worker: Worker,
        activity: Activity,
        numbering: Numbering,
        offer: DispatchOffer | None = None,
        *,
        dispatch_paused: bool = False,
        missing_end: MissingEnd = "none",
        says_starts: bool = False,
    ) -> None:
        self.worker = worker
        self.dispatch_paused = dispatch_paused
        self.missing_end = missing_end
        self.says_starts = says_starts
        self.queued = worker.queued
        self.offer = offer
        self.status = worker.status
        self.execution = worker.execution
        self.activity = activity
        self.transcript_len = worker.transcript_len
        self.deleted = False
        self.rulings: dict[str, Ruling] = {}
        self._numbering = numbering
        self._since = worker.since
        self._last = worker.last_sequence
        self._last_ms = worker.last_event_ms
        self._now = 0
        self._trim: Trim | None = None
        self._entries: list[Entry] = []
        self._events: list[Event] = []
        self._runtime_events: list[RuntimeEvent] = []
        self._parted = 0

    def emit(self, payload: Payload, role: Role | None = None, content: str = "") -> int:
        """Add an event, with a `role` also the entry that it tells of, and return its sequence.

        Text that comes right behind text is added to that event, unless they were parted. What ends a run cancels its
        permissions first. All events of a Change have one time, and an alert tells that time.
        """
        self._now = self._now or self._numbering.unix_ms()
        if isinstance(payload, Alert):
            payload = Alert(payload.level, payload.source, payload.message, self._now)
        if self.activity.permissions and isinstance(payload, END_OF_RUN):
            self.cancel_permissions()
        self.activity = self.activity.after(payload)
        if isinstance(payload, TextDelta) and self._join(payload.text):
            return self._last
        sequence = self._numbering.next_sequence()
        worker_id = self.worker.worker_id
        if role is not None:
            self.transcript_len += 1
            self._entries.append(Entry(worker_id, self.transcript_len, role, content, sequence, self._now))
        self._since = self._since or sequence if self.activity.open else 0
        status = self.activity.status
        self._events.append(
            Event(sequence, worker_id, self._now, payload, self._since, self.transcript_len, status, self._last)
        )
        self._last, self._last_ms = sequence, self._now
        return sequence

    def alert(self, level: AlertLevel, message: str) -> None:
        """Add an alert."""
        self.emit(Alert(level, "worker", message, self._now))

    def part(self) -> None:
        """Join no text that is to come with text that is there."""
        self._parted = len(self._events)

    def resolve(self, resolution: PermissionResolution) -> None:
        """Say how a question was ruled on."""
        item = {"kind": PERMISSION_RESOLVED, "request_id": resolution.request_id, "outcome": resolution.outcome}
        if resolution.option_id is not None:
            item["option_id"] = resolution.option_id
        self.emit(SystemItem({**item, "by": resolution.by}))
        self.rulings[resolution.request_id] = Ruling(resolution.outcome, resolution.option_id)

    def record(self, kind: RuntimeEventKind, sequence: int) -> None:
        """Add a runtime event that the event with this sequence tells of."""
        self._runtime_events.append(self._numbering.runtime_event(kind, self.worker.worker_id, sequence))

    def trim(self, trim_range: TrimRange, state_at: StateAt) -> None:
        """Let go of the oldest events; `moment` is how the Worker stood right behind them."""
        self._trim = Trim(trim_range, state_at)

    def attempt(self, decide: Callable[["ChangeBuilder"], T]) -> T:
        """Take a decision; one that raises leaves the Draft as it was."""
        before = (self.status, self.execution, self.activity, self.transcript_len)
        place = (self._since, self._last, self._last_ms)
        trim, deleted, last = self._trim, self.deleted, self._events[-1:]
        waiting, offer, missing_end = self.queued, self.offer, self.missing_end
        entries, events, told = len(self._entries), len(self._events), len(self._runtime_events)
        rulings = dict(self.rulings)
        try:
            return decide(self)
        except BaseException:
            self.status, self.execution, self.activity, self.transcript_len = before
            self._since, self._last, self._last_ms = place
            self._trim, self.deleted, self.queued, self.offer = trim, deleted, waiting, offer
            self.missing_end = missing_end
            del self._entries[entries:], self._events[events:], self._runtime_events[told:]
            self._events[-1:] = last
            self.rulings = rulings
            raise

    def change(self) -> Change | None:
        """What was decided, or None where nothing was."""
        before, trim = self.worker, self._trim
        self.worker = Worker(
            before.worker_id,
            before.request,
            self.status,
            self.execution,
            self.transcript_len,
            self._last,
            self._since,
            self.activity.status,
            trim.trim_range.upto if trim else before.retained_after,
            before.retained + len(self._events) - (trim.trim_range.count if trim else 0),
            self.queued,
            before.created_at_ms,
            self._last_ms,
            self.missing_end == "awaited",
        )
        if self.deleted:
            told = self._runtime_events
            return Change(None, self._entries, self._events, runtime_events=told, deleted=before.worker_id)
        if not (self._events or trim or self.queued != before.queued) and (
            (self.status, self.execution) == (before.status, before.execution)
        ):
            return None
        return Change(self.worker, self._entries, self._events, runtime_events=self._runtime_events, trim=trim)

    def cancel_permissions(self) -> None:
        """Say of whatever waits for a ruling that nobody wants it any more."""
        for permission in self.activity.permissions:
            self.resolve(PermissionResolution(permission.request_id, "cancelled", "runtime"))

    def _join(self, text: str) -> bool:
        """Whether the text could be added to the event before it."""
        if len(self._events) <= self._parted:
            return False
        last = self._events[-1]
        if not isinstance(last.payload, TextDelta) or len(last.payload.text) + len(text) > MAX_JOINED_TEXT:
            return False
        joined = TextDelta(last.payload.text + text)
        self._events[-1] = Event(
            last.sequence,
            last.worker_id,
            last.timestamp_ms,
            joined,
            last.since,
            last.transcript_len,
            last.activity,
            last.previous,
        )
        return True
