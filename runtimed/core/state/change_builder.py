"""Build the next Change of one Worker, decision by decision."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import (
    Change,
    DispatchOffer,
    Entry,
    Event,
    IdempotencyRecord,
    InputAttachments,
    StateAt,
    Trim,
    TrimRange,
    Worker,
)
from runtimed.core.state.runtime_items import PermissionResolved, render
from runtimed.model.event import Alert, AlertLevel, ErrorRaised, Payload, RunEnd, Shutdown, TextDelta
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import WorkerId
from runtimed.model.interaction import Attachment
from runtimed.model.permission import PermissionResolution, Ruling
from runtimed.model.runtime import RuntimeEvent, RuntimeEventKind
from runtimed.model.transcript import Role

END_OF_RUN = (RunEnd, ErrorRaised, Shutdown)
MAX_JOINED_TEXT = 16 * 1024
"""Text deltas in one Change are joined up to this many characters."""

MissingEnd = Literal["none", "awaited", "added"]
"""Whether the `run_end` of a run that an `error` ended is still awaited, or was added by the Runtime."""

T = TypeVar("T")


class Numbering(Protocol):
    """Allots the numbers that are unique in a Runtime."""

    def next_sequence(self) -> int:
        """Return the next sequence of an event."""

    def runtime_event(
        self,
        kind: RuntimeEventKind,
        worker_id: WorkerId | None = None,
        sequence: int | None = None,
        unix_ms: int | None = None,
        tenant: str | None = None,
        by: str | None = None,
    ) -> RuntimeEvent:
        """Return a new runtime event with its id, at a Unix time in milliseconds or the present one."""

    def next_idempotency_number(self) -> int:
        """Return the next number of an idempotency record."""

    def unix_ms(self) -> int:
        """Return the Unix time in milliseconds."""


class ChangeBuilder:
    """Starts from a Worker's applied state and collects what decisions make of it; `change` returns the outcome.

    Decisions assign `status`, `execution`, `queued`, `offer`, `missing_end` and `deleted`; what the builder started
    from is not changed.

    Attributes:
        worker: The row as it was; from `change` on, as it will be.
        activity: What the Worker is doing.
        queued: The queued inputs.
        offer: The pending offer of a queued input to the backend, or None.
        dispatch_paused: Make no offers.
        missing_end: Whether the `run_end` of the latest run is missing.
        says_starts: The backend announces its runs with `invoke_start`.
        title: What the Worker's agent calls its session.
        commands: What the Worker's agent offers.
        rulings: How permission requests were resolved, by request id; handed out once committed.
        deleted: The Worker is deleted.
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
        self.title, self.commands = worker.title, worker.commands
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
        self._attachments: list[InputAttachments] = []
        self._idempotency: list[IdempotencyRecord] = []
        self._parted = 0

    def emit(self, payload: Payload, role: Role | None = None, content: str = "") -> int:
        """Add an event and, with a `role`, the transcript entry that it records.

        Text right after text joins that event, unless `part` came between. The end of a run cancels its permission
        requests first. All events of a Change have the same time; an alert shows it too.

        Args:
            payload: What happened.
            role: The role of the entry, or None for no entry.
            content: The text of the entry.

        Returns:
            The sequence of the event.
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
        """Add an alert of the Runtime about this Worker."""
        self.emit(Alert(level, "worker", message, self._now))

    def part(self) -> None:
        """Do not join later text with earlier text."""
        self._parted = len(self._events)

    def resolve(self, resolution: PermissionResolution, content: dict[str, Any] | None = None) -> None:
        """Add the event that resolves a permission request. The `content` of a form is for the backend alone."""
        self.emit(render(PermissionResolved(resolution)))
        ruling = Ruling(resolution.outcome, resolution.option_id, resolution.reason, content)
        self.rulings[resolution.request_id] = ruling

    def record(self, kind: RuntimeEventKind, sequence: int, by: str | None) -> None:
        """Add a runtime event of what a client has asked for.

        The Worker's event with this sequence, which is in this Change, records the same.
        """
        worker = self.worker
        recorded = self._numbering.runtime_event(kind, worker.worker_id, sequence, self._now, worker.tenant, by)
        self._runtime_events.append(recorded)

    def keep_key(self, key: IdempotencyKey, entry: int, event: int, *, queued: bool) -> None:
        """Keep the idempotency key of an input, by the sequences of its entry and its event."""
        number, worker_id = self._numbering.next_idempotency_number(), self.worker.worker_id
        record = IdempotencyRecord(number, key.scope, key.body, worker_id, self._now, entry, event, queued)
        self._idempotency.append(record)

    def attach(self, sequence: int, attachments: tuple[Attachment, ...]) -> None:
        """Keep the attachments of the input that the event with this sequence records."""
        self._attachments.append(InputAttachments(self.worker.worker_id, sequence, attachments))

    def trim(self, trim_range: TrimRange, state_at: StateAt) -> None:
        """Stop retaining the oldest events. `state_at` is the state of the Worker after the last of them."""
        self._trim = Trim(trim_range, state_at)

    def apply(self, decide: Callable[["ChangeBuilder"], T]) -> T:
        """Take a decision. If it raises, the builder is as it was before."""
        before = (self.status, self.execution, self.activity, self.transcript_len, self.title, self.commands)
        place = (self._since, self._last, self._last_ms)
        trim, deleted, last = self._trim, self.deleted, self._events[-1:]
        waiting, offer, missing_end = self.queued, self.offer, self.missing_end
        n_entries, n_events, n_runtime_events = len(self._entries), len(self._events), len(self._runtime_events)
        n_attachments, n_keys = len(self._attachments), len(self._idempotency)
        rulings = dict(self.rulings)
        try:
            return decide(self)
        except BaseException:
            self.status, self.execution, self.activity, self.transcript_len, self.title, self.commands = before
            self._since, self._last, self._last_ms = place
            self._trim, self.deleted, self.queued, self.offer = trim, deleted, waiting, offer
            self.missing_end = missing_end
            del self._entries[n_entries:], self._events[n_events:], self._runtime_events[n_runtime_events:]
            del self._attachments[n_attachments:], self._idempotency[n_keys:]
            self._events[-1:] = last
            self.rulings = rulings
            raise

    def change(self) -> Change | None:
        """Return the Change, or None if nothing changed."""
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
            self.title,
            self.commands,
            before.declarations,
            before.tenant,
        )
        if self.deleted:
            return Change(
                None,
                self._entries,
                self._events,
                runtime_events=self._runtime_events,
                deleted=before.worker_id,
                attachments=self._attachments,
                idempotency=self._idempotency,
            )
        if not (self._events or trim or self.queued != before.queued) and (
            (self.status, self.execution) == (before.status, before.execution)
        ):
            return None
        return Change(
            self.worker,
            self._entries,
            self._events,
            runtime_events=self._runtime_events,
            trim=trim,
            attachments=self._attachments,
            idempotency=self._idempotency,
        )

    def cancel_permissions(self) -> None:
        """Cancel all pending permission requests."""
        for permission in self.activity.permissions:
            self.resolve(PermissionResolution(permission.request_id, "cancelled", "runtime"))

    def _join(self, text: str) -> bool:
        """Join the text with the event before, if possible. Returns whether it was."""
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
