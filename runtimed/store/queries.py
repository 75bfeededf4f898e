"""The reads of the durable store; each leaves no statement open behind it."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import apsw

from runtimed.core.activity import Activity
from runtimed.core.change import EncodedEvent, Entry, Moment
from runtimed.core.paging import PageSize
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId
from runtimed.store.replay import cut, entry_size, replay, stored_size
from runtimed.store.rows import Row, entry_of, event_of, number_of

REPLAY_PAGE = PageSize(items=1_000, max_bytes=1024 * 1024)

_ENTRIES = "SELECT event, worker, sequence, role, content, checksum FROM entry WHERE worker = ?"
_EVENTS = "SELECT sequence, worker, since, transcript_len, activity, payload, checksum FROM event WHERE worker = ?"

T = TypeVar("T")


def entries_after(connection: apsw.Connection, worker: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
    """As Store.read_entries."""
    query = f"{_ENTRIES} AND sequence > ? ORDER BY sequence"
    return _without_holes(_entries(connection, query, worker, start, page), worker, start + 1)


def newest_entries(connection: apsw.Connection, worker: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
    """As Store.newest_entries."""
    found = _entries(connection, f"{_ENTRIES} AND sequence <= ? ORDER BY sequence DESC", worker, upto, page)
    found.reverse()
    return _without_holes(found, worker, found[0].sequence if found else 0)


def events_between(
    connection: apsw.Connection, worker: WorkerId, after: int, upto: int, page: PageSize
) -> Sequence[EncodedEvent]:
    """As Store.read_events."""
    query = f"{_EVENTS} AND sequence > ? AND sequence <= ? ORDER BY sequence"
    found = _page(connection, query, (number_of(worker), after, upto), page, event_of, stored_size)
    return [stored.event for stored in found]


def moment(connection: apsw.Connection, worker: WorkerId, sequence: int) -> Moment:
    """As Store.moment."""
    query = f"{_EVENTS} AND sequence <= ? ORDER BY sequence DESC"
    newest = _page(connection, query, (number_of(worker), sequence), PageSize(1, 1), event_of, stored_size)
    if not newest:
        return Moment(0, Activity())
    [stood] = newest
    if not stood.since:
        return Moment(stood.transcript_len, Activity(stood.activity))
    activity, after = Activity(), stood.since - 1
    while found := events_between(connection, worker, after, stood.event.sequence, REPLAY_PAGE):
        activity, after = replay(activity, found), found[-1].sequence
    return Moment(stood.transcript_len, Activity(stood.activity, activity.blocks))


def _entries(connection: apsw.Connection, query: str, worker: WorkerId, place: int, page: PageSize) -> list[Entry]:
    return _page(connection, query, (number_of(worker), place), page, entry_of, entry_size)


def _page(
    connection: apsw.Connection,
    query: str,
    bindings: Row,
    page: PageSize,
    value_of: Callable[[Row], T],
    size: Callable[[T], int],
) -> list[T]:
    with contextlib.closing(connection.execute(f"{query} LIMIT ?", (*bindings, page.items))) as rows:
        return cut(map(value_of, rows), page, size)


def _without_holes(entries: Sequence[Entry], worker: WorkerId, first: int) -> Sequence[Entry]:
    for expected, entry in enumerate(entries, first):
        if entry.sequence != expected:
            raise StoreCorrupt(f"the entry {expected} of {worker} is missing")
    return entries
