"""What a client says to a Worker, and the acknowledgements it gets."""

from typing import Literal

from runtimed.model.identity import Cursor, WorkerRef
from runtimed.model.value import value
from runtimed.model.worker import WorkerStatus

InputKind = Literal["user", "system"]
WhenBusy = Literal["reject", "queue", "interrupt"]
"""What becomes of an input while a run goes on: it is refused, waits its turn, or cuts the run and goes first."""


@value
class WorkerInput:
    """A message to a Worker; `content` is never blank."""

    kind: InputKind
    content: str
    when_busy: WhenBusy = "reject"


@value
class LifecycleRequest:
    """The body of stop and cancel."""

    reason: str | None = None


@value
class InteractionAck:
    """The input is stored, in the transcript, and on its way to the backend; `queued` where it waits its turn.

    `event_id` is the sequence of the event that tells of it, `cursor` the same as a cursor.
    """

    worker_ref: WorkerRef
    status: WorkerStatus
    transcript_sequence: int
    event_id: int
    cursor: Cursor
    queued: bool = False


@value
class LifecycleAck:
    """The Worker has this status now; `event_id` and `cursor` are those of its newest event."""

    worker_ref: WorkerRef
    status: WorkerStatus
    event_id: int
    cursor: Cursor
