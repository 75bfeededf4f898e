"""What a decision leaves behind: rows to store and events to publish."""

from collections.abc import Sequence

import attrs

from runtimed.core.activity import Activity
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import Payload
from runtimed.model.execution import Execution
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.transcript import Role
from runtimed.model.worker import CreateWorkerRequest, WorkerStatus


@attrs.frozen
class Worker:
    """A Worker as the catalog and the store hold it.

    `last_sequence` is that of its newest event, 0 for none. `active_since` is the sequence of the first event since
    the Worker was last quiet (see Activity), 0 while it is quiet.
    """

    worker_id: WorkerId
    request: CreateWorkerRequest
    status: WorkerStatus
    execution: Execution
    transcript_len: int = 0
    last_sequence: int = 0
    active_since: int = 0


@attrs.frozen
class Entry:
    """One entry of a transcript; `event` is the sequence of the event that told of it."""

    worker_id: WorkerId
    sequence: int
    role: Role
    content: str
    event: int


@attrs.frozen
class Event:
    """One event, as decided.

    `since` and `transcript_len` say how the Worker stood right behind it: where to begin reading to know what was in
    flight (0 when nothing was), and how many entries there were. With them a snapshot can be made for any cursor.
    """

    sequence: int
    worker_id: WorkerId
    payload: Payload
    since: int
    transcript_len: int


@attrs.frozen
class EncodedEvent:
    """An event as it is stored and sent: `payload` is its JSON in UTF-8, encoded once, by the store."""

    sequence: int
    worker_id: WorkerId
    payload: bytes


@attrs.frozen
class Change:
    """All of it becomes durable, or none. `worker` replaces the row of its id."""

    worker: Worker | None = None
    entries: Sequence[Entry] = ()
    events: Sequence[Event] = ()
    bundle: ConfigBundle | None = None
    diagnostics: Sequence[Diagnostic] = ()


@attrs.frozen
class Moment:
    """How a Worker stood right behind one of its events."""

    transcript_len: int
    activity: Activity


@attrs.frozen
class StoredState:
    """What a store knew when it was opened.

    `head` is the highest sequence and `worker_number` the highest Worker number ever committed. `activities` has the
    Activity of each Worker that was not quiet.
    """

    runtime_id: RuntimeId
    head: int
    worker_number: int
    workers: Sequence[Worker]
    activities: dict[WorkerId, Activity]
    bundles: Sequence[ConfigBundle]
    diagnostics: Sequence[Diagnostic]
