"""What a decision leaves behind: rows to store and events to publish."""

from collections.abc import Mapping, Sequence

import attrs

from runtimed.core.state.activity import Activity
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus, Payload
from runtimed.model.execution import Execution
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.transcript import Role
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest, WorkerStatus


@value
class QueuedInput:
    """An input that waits its turn: the sequences of its entry and of its event."""

    entry: int
    event: int


@attrs.frozen(eq=False)
class DispatchOffer:
    """One offer to the backend of an input that waits. Whatever runs the Worker next is made another."""

    input: QueuedInput


@value
class Worker:
    """A Worker as the catalog and the store hold it.

    `last_sequence` is that of its newest event, 0 for none; `since` and `activity` are as in Event, right behind that
    one. `retained` counts the events that are kept, `floor` is the sequence of the newest that is not, 0 for none.
    `waiting` are the inputs that the backend is yet to be given, in their order. `awaits_run_end`: an `error` has
    ended its run, whose `run_end` is missing yet. `created_at_ms` is the Unix time of
    the creation, `last_event_ms` that of the newest event, which is the creation's while there is none.
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

    @property
    def quiet(self) -> bool:
        """Whether nothing was going on and nothing in flight."""
        return self.activity == "idle" and not self.since


@value
class Entry:
    """One entry of a transcript; `event` is the sequence of the event that told of it, `timestamp_ms` its time."""

    worker_id: WorkerId
    sequence: int
    role: Role
    content: str
    event: int
    timestamp_ms: int


@value
class Event:
    """One event, as decided; `timestamp_ms` is the Unix time of the decision.

    The rest says how the Worker stood right behind it, so that a snapshot can be made for any cursor: `since` is
    where to begin reading to know what was in flight (0 when nothing was), then how many entries there were, and
    what its Activity said. `previous` is the sequence of the Worker's event before this one, 0 for none, so that a
    missing one shows.
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
    """An event as it is stored and sent: `payload` is its JSON in UTF-8, encoded once, by the store."""

    sequence: int
    worker_id: WorkerId
    timestamp_ms: int
    payload: bytes


@value
class StateAt:
    """How a Worker stood right behind one of its events, and the time of that event, 0 before the first one."""

    transcript_len: int
    activity: Activity
    timestamp_ms: int


@value
class TrimRange:
    """The oldest `count` retained events of a Worker; `upto` is the sequence of the newest of them."""

    worker_id: WorkerId
    upto: int
    count: int


@value
class Trim:
    """Events that are retained no longer, and how the Worker stood right behind them, from where later ones go on."""

    trim_range: TrimRange
    state_at: StateAt


@value
class NumberedDiagnostic:
    """A diagnostic that is kept, numbered from 1."""

    number: int
    diagnostic: Diagnostic


@value
class Mark:
    """Every event up to this sequence was published before this time, in milliseconds since 1970."""

    sequence: int
    unix_ms: int


@value
class Forgotten:
    """What is kept no longer: remarks up to this number, marks up to this sequence, and of the runtime events all but
    the newest so many."""

    diagnostics: int = 0
    runtime_events_left: int | None = None
    marks: int = 0


@value
class Change:
    """All of it becomes durable, or none.

    `worker` replaces the row of its id. `trim` takes out what it names, and is where the Worker's floor is kept.
    `deleted` takes out a Worker and its remarks; its entries and events are unreadable from then on, and go with
    Store.purge.
    """

    worker: Worker | None = None
    entries: Sequence[Entry] = ()
    events: Sequence[Event] = ()
    bundle: ConfigBundle | None = None
    diagnostics: Sequence[NumberedDiagnostic] = ()
    runtime_events: Sequence[RuntimeEvent] = ()
    trim: Trim | None = None
    mark: Mark | None = None
    deleted: WorkerId | None = None
    forgotten: Forgotten | None = None


@value
class StoredState:
    """What a store knew when it was opened.

    `head` is the highest sequence, `worker_number` the highest Worker number, `remark_number` and `runtime_event_id`
    the highest of theirs ever committed. `activities` has the Activity of each Worker that was not quiet.
    `damaged` says what is wrong with the Workers that cannot be served; one whose row can still be read is in
    `workers` too. `deleted` are the Workers whose data is not all purged. `marks` and `remarks` are in order.
    """

    runtime_id: RuntimeId
    head: int
    worker_number: int
    workers: Sequence[Worker]
    activities: dict[WorkerId, Activity]
    bundles: Sequence[ConfigBundle]
    diagnostics: Sequence[NumberedDiagnostic]
    diagnostic_number: int = 0
    runtime_event_id: int = 0
    marks: Sequence[Mark] = ()
    damaged: Mapping[WorkerId, str] = attrs.field(factory=dict)
    deleted: Sequence[WorkerId] = ()
