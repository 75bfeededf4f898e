"""Transcripts: what was said to a Worker and by it, in order."""

from typing import Literal

from runtimed.model.identity import Cursor, WorkerRef
from runtimed.model.value import value

Role = Literal["user", "assistant", "system"]


@value
class TranscriptItem:
    """An entry of a transcript.

    Attributes:
        sequence: Counts from 1 without gaps.
        event_id: The sequence of the entry's event.
        cursor: The same as a cursor.
        timestamp_ms: The time of that event, as Unix time in milliseconds.
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
    """A page of a transcript.

    Attributes:
        start: How many entries come before the page.
        limit: The most entries in the page.
        total_items: How many entries the transcript has.
        next_start: The `start` of the next page, or None after the last page.
    """

    worker_ref: WorkerRef
    start: int
    limit: int
    total_items: int
    items: tuple[TranscriptItem, ...]
    next_start: int | None
