"""What both stores share: where a page ends, what a row of events adds up to, and how a Runtime is named."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import EncodedEvent, Entry
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import RuntimeId, WorkerId, cursor_of
from runtimed.store.rows import Floor, StoredEvent
from runtimed.wire.converter import restore_payload

T = TypeVar("T")


def cut(rows: Iterable[T], page: PageSize, size: Callable[[T], int]) -> list[T]:
    """The first rows, up to the one that fills the page; `size` tells the bytes of a row."""
    kept, total = [], 0
    for row in islice(rows, page.items):
        kept.append(row)
        total += size(row)
        if total >= page.max_bytes:
            break
    return kept


def entry_size(entry: Entry) -> int:
    """The bytes by which an entry fills a page."""
    return len(entry.content.encode())


def stored_size(stored: StoredEvent) -> int:
    """The bytes by which an event fills a page."""
    return len(stored.event.payload)


def unbroken(events: Sequence[StoredEvent], after: int) -> Sequence[StoredEvent]:
    """Those of the events behind `after` that come in front of a missing one. Raises StoreCorrupt where none does."""
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


def check_floor(floor: Floor, after: int) -> None:
    """Raises StoreCorrupt where a Worker's events behind `after` are not retained any more."""
    if after < floor.sequence:
        raise missing_event(floor.sequence, floor.worker_id)


def missing_event(sequence: int, worker: WorkerId) -> StoreCorrupt:
    """What to say where a Worker's event has another before it that is not there."""
    return StoreCorrupt(f"the event {cursor_of(sequence)} of {worker} is missing")


def replay(activity: Activity, events: Iterable[EncodedEvent]) -> Activity:
    """The activity behind these events. Raises StoreCorrupt for one that is no event of the contract."""
    for event in events:
        try:
            activity = activity.after(restore_payload(event.payload))
        except ValueError as error:
            name = f"the event {cursor_of(event.sequence)} of {event.worker_id}"
            raise StoreCorrupt(f"{name} is no event that this version knows") from error
    return activity


def new_runtime_id() -> RuntimeId:
    """An id for a Runtime that was given none."""
    return RuntimeId(f"runtime-{secrets.token_hex(8)}")
