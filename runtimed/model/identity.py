"""Ids of Runtimes and Workers, and cursors of the feed."""

import re
from typing import NewType

from runtimed.model.value import value

RuntimeId = NewType("RuntimeId", str)
WorkerId = NewType("WorkerId", str)
Cursor = NewType("Cursor", str)

RUNTIME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
WORKER_ID = re.compile(r"worker-([0-9a-f]{8})", re.ASCII)
CURSOR = re.compile(r"wo_([0-9a-f]{16})", re.ASCII)
MAX_WORKER_NUMBER = 0xFFFF_FFFF


@value
class WorkerRef:
    """The ids that address a Worker."""

    runtime_id: RuntimeId
    worker_id: WorkerId


@value
class EventCursor:
    """A place in the feed of one Runtime: right after the event with this sequence, or before all events for 0."""

    runtime_id: RuntimeId
    sequence: int


def worker_id(number: int) -> WorkerId:
    """Return the id of the Worker with this number. Numbers start at 1."""
    return WorkerId(f"worker-{number:08x}")


def worker_number(text: str) -> int | None:
    """Return the number in a Worker id, or None if the text is not one."""
    match = WORKER_ID.fullmatch(text)
    return int(match[1], 16) if match else None


def cursor_of(sequence: int) -> Cursor:
    """Return the cursor after the event with this sequence, or before all events if it is 0."""
    return Cursor(f"wo_{sequence:016x}")


def cursor_sequence(text: str) -> int | None:
    """Return the sequence in a cursor, or None if the text is not one. The sequence may be ahead of the feed."""
    match = CURSOR.fullmatch(text)
    return int(match[1], 16) if match else None
