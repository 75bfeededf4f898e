"""A Change: the rows to store and the events to publish of one decision or several."""

from collections.abc import Mapping, Sequence

import attrs

from runtimed.core.state.activity import Activity
from runtimed.model.bundle import ConfigBundle, Declaration
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus, Payload
from runtimed.model.execution import Execution, WorkerStatus
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.interaction import Attachment
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.token import Token
from runtimed.model.transcript import Role
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest, SlashCommand


@value
class QueuedInput:
    """A queued input: the sequence of its transcript entry and that of its event, and how many attachments it has."""

    entry: int
    event: int
    attachments: int = 0


@attrs.frozen(eq=False)
class DispatchOffer:
    """One offer of a queued input to the backend. Each offer is an object of its own and is compared by identity."""

    input: QueuedInput


@value
class Worker:
    """A Worker's row.

    Attributes:
        worker_id: Its id.
        request: The request that created it.
        status: Running, stopped or cancelled.
        execution: Whether something runs it, and the last result of the backend.
        transcript_len: Entries in its transcript.
        last_sequence: The sequence of its newest event, 0 for none.
        since: As in Event, right after the newest event.
        activity: As in Event, right after the newest event.
        retained_after: The sequence of its newest event that is no longer retained, 0 for none.
        retained: How many events are retained.
        queued: The inputs that wait for the current run to end, first to run first.
        created_at_ms: Unix time of its creation.
        last_event_ms: Unix time of its newest event, else of its creation.
        awaits_run_end: An `error` has ended its run, and the `run_end` is still missing.
        title: What its agent calls its session, if it said so.
        commands: What its agent offers. They are not stored: an agent that starts says them again.
        declarations: Those of its config bundle when it was created: a bundle may be replaced later.
        tenant: That of the token that created it, None for none. It never changes.
    """

    worker_id: WorkerId
    request: CreateWorkerRequest
    status: WorkerStatus
    execution: Execution
    transcript_len: int = 0
    last_sequence: int = 0
    since: int = 0
    activity: ActivityStatus = "idle"
    retained_after: int = 0
    retained: int = 0
    queued: tuple[QueuedInput, ...] = ()
    created_at_ms: int = 0
    last_event_ms: int = 0
    awaits_run_end: bool = False
    title: str | None = None
    commands: tuple[SlashCommand, ...] = ()
    declarations: tuple[Declaration, ...] = ()
    tenant: str | None = None

    @property
    def quiet(self) -> bool:
        """Whether the Worker is idle with nothing in flight."""
        return self.activity == "idle" and not self.since


@value
class Entry:
    """A transcript entry. `event` is the sequence of the event that records it, `timestamp_ms` its Unix time."""

    worker_id: WorkerId
    sequence: int
    role: Role
    content: str
    event: int
    timestamp_ms: int


@value
class InputAttachments:
    """The attachments of an input; `event` is the sequence of the event that records it."""

    worker_id: WorkerId
    event: int
    attachments: tuple[Attachment, ...]


@value
class Event:
    """One decided event, with the state of its Worker right after it: a snapshot can be made at any cursor.

    Attributes:
        sequence: Unique in the Runtime, ascending.
        worker_id: The Worker that it belongs to.
        timestamp_ms: Unix time of the decision.
        payload: What happened.
        since: The sequence at which to begin reading to know what is in flight, 0 if nothing is.
        transcript_len: Entries in the transcript.
        activity: What the Worker is doing.
        previous: The sequence of the Worker's event before this one, 0 for none; it reveals a missing event.
    """

    sequence: int
    worker_id: WorkerId
    timestamp_ms: int
    payload: Payload
    since: int
    transcript_len: int
    activity: ActivityStatus
    previous: int = 0


@value
class EncodedEvent:
    """An event as it is stored and sent. `payload` is JSON in UTF-8, encoded once by the store."""

    sequence: int
    worker_id: WorkerId
    timestamp_ms: int
    payload: bytes


@value
class EventPage:
    """A page of events, oldest first; it is complete up to the sequence `upto`."""

    events: Sequence[EncodedEvent]
    upto: int


@value
class StateAt:
    """The state of a Worker right after one of its events. `timestamp_ms` is the event's, 0 before the first one."""

    transcript_len: int
    activity: Activity
    timestamp_ms: int


@value
class TrimRange:
    """The oldest `count` retained events of a Worker.

    Attributes:
        worker_id: The Worker.
        upto: The sequence of the newest of them.
        count: How many there are.
        size_bytes: The size of their payloads. It is not compared.
    """

    worker_id: WorkerId
    upto: int
    count: int
    size_bytes: int = attrs.field(default=0, eq=False)


@value
class Trim:
    """Events that are no longer retained, and the state of the Worker right after them."""

    trim_range: TrimRange
    state_at: StateAt


@value
class NumberedDiagnostic:
    """A stored diagnostic, numbered from 1."""

    number: int
    diagnostic: Diagnostic


@value
class StoredBundle:
    """A config bundle, and the tenant that it belongs to. Two tenants may have bundles with the same id."""

    bundle: ConfigBundle
    tenant: str | None = None


@value
class Mark:
    """Every event up to this sequence was published before this Unix time in milliseconds."""

    sequence: int
    unix_ms: int


@value
class Gap:
    """Sequences that are never given out, because another life of the Runtime may have given them out.

    A store that is restored from a backup leaves such a gap: what happened after the backup is lost, but clients may
    still have its cursors.

    Attributes:
        head: The highest sequence in the backup.
        raised_to: The sequence after which new events come.
        unix_ms: Unix time of the restore.
    """

    head: int
    raised_to: int
    unix_ms: int

    def holds(self, sequence: int) -> bool:
        """Return whether a sequence is in the gap."""
        return self.head < sequence < self.raised_to


@value
class Forgotten:
    """What is no longer kept.

    Attributes:
        diagnostics: Drop diagnostics up to this number.
        runtime_events_left: Keep only this many of the newest runtime events; None keeps all.
        marks: Drop marks up to this sequence.
        idempotency: Drop idempotency records up to this number.
    """

    diagnostics: int = 0
    runtime_events_left: int | None = None
    marks: int = 0
    idempotency: int = 0


@value
class IdempotencyRecord:
    """The idempotency key of a request that was carried out, and what its repeat is answered by.

    Attributes:
        number: Counts from 1.
        scope: As in IdempotencyKey.
        body: As in IdempotencyKey.
        worker_id: The Worker that was created, or that got the input.
        unix_ms: Unix time of the decision.
        entry: The sequence of the input's transcript entry, 0 for a Worker that was created.
        event: The sequence of the input's event, 0 for a Worker that was created.
        queued: Whether the input was queued.
    """

    number: int
    scope: bytes
    body: bytes
    worker_id: WorkerId
    unix_ms: int
    entry: int = 0
    event: int = 0
    queued: bool = False


@value
class TokenRecord:
    """A token as it is stored; `digest` is the SHA-256 of its secret."""

    token: Token
    digest: bytes


@value
class Change:
    """Rows, events and deletions that become durable together, or not at all.

    Attributes:
        worker: Replaces the Worker's row.
        entries: New transcript entries.
        events: New events.
        bundle: Replaces the bundle of its tenant with its id.
        diagnostics: New diagnostics.
        runtime_events: New runtime events.
        trim: Removes events; the store keeps the state after them.
        mark: A new mark.
        deleted: Deletes a Worker and its diagnostics. Its entries and events cannot be read any more; Store.purge
            removes them, and attachments.
        forgotten: What is no longer kept.
        attachments: The attachments of new inputs that have some.
        idempotency: The keys of the requests that led to this Change.
        token: Replaces the token with its name.
        revoked: Deletes the token with this name. Not that of `token`.
    """

    worker: Worker | None = None
    entries: Sequence[Entry] = ()
    events: Sequence[Event] = ()
    bundle: StoredBundle | None = None
    diagnostics: Sequence[NumberedDiagnostic] = ()
    runtime_events: Sequence[RuntimeEvent] = ()
    trim: Trim | None = None
    mark: Mark | None = None
    deleted: WorkerId | None = None
    forgotten: Forgotten | None = None
    attachments: Sequence[InputAttachments] = ()
    idempotency: Sequence[IdempotencyRecord] = ()
    token: TokenRecord | None = None
    revoked: str | None = None


@value
class StoredState:
    """What a store holds when it is opened.

    Attributes:
        runtime_id: The Runtime that it belongs to.
        head: The highest sequence ever committed.
        worker_number: The highest Worker number ever committed.
        workers: The rows of all Workers that can be read.
        activities: The Activity of each Worker that was not quiet.
        bundles: The config bundles of all tenants.
        diagnostics: The diagnostics, oldest first.
        diagnostic_number: The highest number of a diagnostic ever committed.
        runtime_event_id: The highest id of a runtime event ever committed.
        marks: The marks, oldest first.
        damaged: Why a Worker cannot be served, by Worker.
        deleted: Deleted Workers whose data is not fully purged.
        idempotency: The idempotency records, oldest first.
        tokens: The tokens that were made, by name.
        gaps: The gaps that restores have left, oldest first.
    """

    runtime_id: RuntimeId
    head: int
    worker_number: int
    workers: Sequence[Worker]
    activities: dict[WorkerId, Activity]
    bundles: Sequence[StoredBundle]
    diagnostics: Sequence[NumberedDiagnostic]
    diagnostic_number: int = 0
    runtime_event_id: int = 0
    marks: Sequence[Mark] = ()
    damaged: Mapping[WorkerId, str] = attrs.field(factory=dict)
    deleted: Sequence[WorkerId] = ()
    idempotency: Sequence[IdempotencyRecord] = ()
    tokens: Sequence[TokenRecord] = ()
    gaps: Sequence[Gap] = ()
