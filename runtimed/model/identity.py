"""Who is meant: ids of Runtimes and Workers, and cursors into the feed."""

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
    """The pair that addresses a Worker everywhere."""

    runtime_id: RuntimeId
    worker_id: WorkerId


@value
class EventCursor:
    """A place in the feed of one Runtime: just behind the event with this sequence, 0 being before all."""

    runtime_id: RuntimeId
    sequence: int


def worker_id(number: int) -> WorkerId:
    """The id of the Worker with this number, counted from 1."""
    return WorkerId(f"worker-{number:08x}")


def worker_number(text: str) -> int | None:
    """The number in a Worker id, or None where the text is no Worker id."""
    match = WORKER_ID.fullmatch(text)
    return int(match[1], 16) if match else None


def cursor_of(sequence: int) -> Cursor:
    """Return the cursor of the event with this sequence; 0 stands for the place before all events."""
    return Cursor(f"wo_{sequence:016x}")


def cursor_sequence(text: str) -> int | None:
    """The sequence in a cursor, or None where the text is no cursor. It may be larger than any that is allotted."""
    match = CURSOR.fullmatch(text)
    return int(match[1], 16) if match else None
