"""What was said to a Worker and by it, in order."""

from typing import Literal

from runtimed.model.identity import Cursor, WorkerRef
from runtimed.model.value import value

Role = Literal["user", "assistant", "system"]


@value
class TranscriptItem:
    """One entry; `sequence` counts from 1 without gaps.

    `event_id` is the sequence of the event that told of it, `cursor` the same as a cursor, `timestamp_ms` the Unix
    time of that event.
    """

    sequence: int
    worker_ref: WorkerRef
    role: Role
    content: str
    event_id: int
    cursor: Cursor
    timestamp_ms: int


@value
class TranscriptProjection:
    """A page of a transcript: the entries behind the first `start`, and where the next page starts."""

    worker_ref: WorkerRef
    start: int
    limit: int
    total_items: int
    items: tuple[TranscriptItem, ...]
    next_start: int | None
