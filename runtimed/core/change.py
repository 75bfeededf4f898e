"""What a decision leaves behind: rows to store and events to publish."""

from collections.abc import Sequence

import attrs

from runtimed.core.activity import Activity
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus, Payload
from runtimed.model.execution import Execution
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.transcript import Role
from runtimed.model.worker import CreateWorkerRequest, WorkerStatus


@attrs.frozen
class Worker:
    """A Worker as the catalog and the store hold it.

    `last_sequence` is that of its newest event, 0 for none; `since` and `activity` are as in Event, right behind that
    one.
    """

    worker_id: WorkerId
    request: CreateWorkerRequest
    status: WorkerStatus
    execution: Execution
    transcript_len: int = 0
    last_sequence: int = 0
    since: int = 0
    activity: ActivityStatus = "idle"

    @property
    def quiet(self) -> bool:
        """Whether nothing was going on and nothing in flight."""
        return self.activity == "idle" and not self.since


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

    The rest says how the Worker stood right behind it, so that a snapshot can be made for any cursor: `since` is
    where to begin reading to know what was in flight (0 when nothing was), then how many entries there were, and
    what its Activity said.
    """

    sequence: int
    worker_id: WorkerId
    payload: Payload
    since: int
    transcript_len: int
    activity: ActivityStatus


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
