"""What all stores share: the end of a page, the replay of events, and ids of new Runtimes."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import EncodedEvent, Entry, InputAttachments, TrimRange
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import RuntimeId, WorkerId, cursor_of
from runtimed.model.interaction import Attachment
from runtimed.store.records import StoredEvent, TrimPoint
from runtimed.wire.converter import restore_payload

T = TypeVar("T")

ONE = PageSize(items=1, max_bytes=1)

LOOK_AHEAD = 5_000
"""How many sequences a read of one tenant's events looks at. Those of others cost time, and reads must be short."""


def fill_page(rows: Iterable[T], page: PageSize, size: Callable[[T], int]) -> list[T]:
    """Return the first rows, up to the one that fills the page. `size` returns the bytes of a row."""
    kept, total = [], 0
    for row in islice(rows, page.items):
        kept.append(row)
        total += size(row)
        if total >= page.max_bytes:
            break
    return kept


def is_filled(events: Sequence[EncodedEvent], page: PageSize) -> bool:
    """Return whether these events fill a page."""
    return len(events) >= page.items or sum(len(event.payload) for event in events) >= page.max_bytes


def entry_size(entry: Entry) -> int:
    """Return how many bytes of a page an entry uses."""
    return len(entry.content.encode())


def stored_size(stored: StoredEvent) -> int:
    """Return how many bytes of a page an event uses."""
    return len(stored.event.payload)


def attachments_in(found: Sequence[InputAttachments], worker_id: WorkerId, event: int) -> tuple[Attachment, ...]:
    """The attachments of an input of a Worker, if they were found; none otherwise.

    Args:
        found: The first row from the event on, if any.
        worker_id: The Worker.
        event: The sequence of the event of the input.
    """
    return next((one.attachments for one in found if (one.worker_id, one.event) == (worker_id, event)), ())


def up_to_gap(events: Sequence[StoredEvent], after: int) -> Sequence[StoredEvent]:
    """Return the events before the first missing one.

    Args:
        events: Events of any Workers after `after`, by sequence.
        after: The sequence after which they were read.

    Raises:
        StoreCorrupt: The first one is missing.
    """
    newest: dict[WorkerId, int] = {}
    for stored in events:
        name, previous = stored.event.worker_id, stored.previous
        if previous != newest[name] if name in newest else previous > after:
            kept = [other for other in events if other.event.sequence < previous]
            if not kept:
                raise missing_event(previous, name)
            return kept
        newest[name] = stored.event.sequence
    return events


def trim_ranges(oldest: Iterable[tuple[int, WorkerId, int]]) -> list[TrimRange]:
    """Return events as one range for each Worker.

    Args:
        oldest: The sequence, the Worker and the size in bytes of each event, oldest first.
    """
    ranges: dict[WorkerId, TrimRange] = {}
    for sequence, worker_id, size in oldest:
        before = ranges.pop(worker_id, TrimRange(worker_id, 0, 0))
        ranges[worker_id] = TrimRange(worker_id, sequence, before.count + 1, before.size_bytes + size)
    return list(ranges.values())


def check_retained(point: TrimPoint, after: int) -> None:
    """Raise StoreCorrupt if some of a Worker's events after `after` are no longer retained."""
    if after < point.sequence:
        raise missing_event(point.sequence, point.worker_id)


def missing_event(sequence: int, worker: WorkerId) -> StoreCorrupt:
    """Return the error for an event that is missing between others of its Worker."""
    return StoreCorrupt(f"the event {cursor_of(sequence)} of {worker} is missing")


def replay(activity: Activity, events: Iterable[EncodedEvent]) -> Activity:
    """Return the activity after these events.

    Raises:
        StoreCorrupt: This version does not know one of them.
    """
    for event in events:
        try:
            activity = activity.after(restore_payload(event.payload))
        except ValueError as error:
            name = f"the event {cursor_of(event.sequence)} of {event.worker_id}"
            raise StoreCorrupt(f"{name} is not an event that this version knows") from error
    return activity


def new_runtime_id() -> RuntimeId:
    """Generate an id for a new Runtime."""
    return RuntimeId(f"runtime-{secrets.token_hex(8)}")
