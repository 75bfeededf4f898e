"""The reads of the durable store. None leaves a statement open, which would keep the log from shrinking."""

import contextlib
import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import merge, nsmallest
from itertools import islice
from struct import Struct
from struct import error as StructError  # noqa: N812 it is a class
from typing import Any, TypeVar
from zlib import crc32

import apsw

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import EncodedEvent, Entry, EventPage, StateAt, TrimRange
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.runtime import RuntimeEvent
from runtimed.store.pages import (
    LOOK_AHEAD,
    check_retained,
    entry_size,
    fill_page,
    is_filled,
    missing_event,
    replay,
    trim_ranges,
)
from runtimed.store.records import (
    ENTRIES,
    EVENTS,
    RUNTIME_EVENTS,
    TRIM_POINTS,
    StoredEvent,
    TrimPoint,
    number_of,
    skip_damaged,
)
from runtimed.store.tables import Row, Table, checksum_seed

T = TypeVar("T")

_PACK_EVENT = Struct("<7q").pack
_EVENT_SEED = checksum_seed(EVENTS.name)

SIZES_AT_ONCE = 16
"""How many events of one Worker are looked at together when the oldest of several Workers are searched."""

NO_BINDINGS: Mapping[str, str] = {}

REPLAY_PAGE = PageSize(items=1_000, max_bytes=1024 * 1024)

_OF_WORKER = "WHERE worker = :worker AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.worker = :worker)"
_ENTRIES = f"{ENTRIES.select} {_OF_WORKER}"
_EVENTS = f"""
    {EVENTS.select} {_OF_WORKER}
    AND sequence > :after AND sequence <= :upto ORDER BY sequence LIMIT :items
"""
_OF_ALL = "WHERE sequence > :after AND sequence <= :upto AND worker NOT IN (SELECT worker FROM deleted)"
_ALL_EVENTS = f"{EVENTS.select} {_OF_ALL} ORDER BY sequence LIMIT :items"
_FIRST_EVENT = "SELECT min(sequence) FROM event WHERE sequence > :after"
# The index of tenants holds all that is looked at of a Worker, whose request may be large.
_TENANT_EVENTS = f"""
    {EVENTS.select} WHERE sequence > :after AND sequence <= :upto AND EXISTS (
        SELECT 1 FROM worker INDEXED BY worker_tenant
        WHERE tenant = :tenant AND tenant <> '' AND number = event.worker
    ) ORDER BY sequence LIMIT :items
"""  # noqa: S608
_NEWEST_EVENT = f"{EVENTS.select} {_OF_WORKER} AND sequence <= :upto ORDER BY sequence DESC LIMIT 1"
_OLDEST_OF_ONE = """
    SELECT worker, max(sequence), count(*), sum(size) FROM (
        SELECT worker, sequence, length(payload) AS size FROM event
        WHERE worker = :worker AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.worker = :worker)
        AND sequence <= :upto ORDER BY sequence LIMIT :items
    ) GROUP BY worker
"""
_OLDEST_OF_ALL = """
    SELECT worker, max(sequence), count(*), sum(size) FROM (
        SELECT worker, sequence, length(payload) AS size FROM event
        WHERE sequence <= :upto AND worker NOT IN (SELECT worker FROM deleted)
        AND worker NOT IN (SELECT value FROM json_each(:spared)) ORDER BY sequence LIMIT :items
    ) GROUP BY worker ORDER BY 2
"""
_TRIM_POINT = f"{TRIM_POINTS.select} WHERE worker = ?"
# The index of tenants is used by queries with its own condition.
_OLDEST_OF_WORKERS = """
    SELECT (SELECT min(sequence) FROM event WHERE worker = number) AS oldest, number
    FROM worker WHERE tenant = ? AND tenant <> '' AND oldest IS NOT NULL
"""
_SIZES = """
    SELECT sequence, length(payload) FROM event
    WHERE worker = ? AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?
"""
_SIZE = f"SELECT sum(length(payload)) FROM event {_OF_WORKER} AND sequence <= :upto"  # noqa: S608
_ABOUT_WORKERS = "worker IN (SELECT value FROM json_each(:workers))"
_ABOUT_TENANT = "tenant = :tenant AND tenant <> ''"
_TRIMMED_BEHIND = "SELECT worker, sequence FROM floor WHERE sequence > :after LIMIT 1"
_TRIMMED_BEHIND_OF_TENANT = """
    SELECT floor.worker, floor.sequence FROM worker JOIN floor ON floor.worker = number
    WHERE tenant = :tenant AND tenant <> '' AND floor.sequence > :after LIMIT 1
"""


def entries_after(connection: apsw.Connection, worker: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
    """Return a page of a Worker's entries with a sequence above `start`, oldest first.

    Raises:
        StoreCorrupt: An entry is damaged or missing.
    """
    query = f"{_ENTRIES} AND sequence > :place ORDER BY sequence LIMIT :items"
    return _without_holes(_entries(connection, query, worker, start, page), worker, start + 1)


def newest_entries(connection: apsw.Connection, worker: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
    """Return a page of a Worker's newest entries with a sequence of at most `upto`, oldest first.

    Raises:
        StoreCorrupt: An entry is damaged or missing.
    """
    query = f"{_ENTRIES} AND sequence <= :place ORDER BY sequence DESC LIMIT :items"
    found = _entries(connection, query, worker, upto, page)
    found.reverse()
    return _without_holes(found, worker, found[0].sequence if found else 0)


def events_between(
    connection: apsw.Connection, worker: WorkerId, after: int, upto: int, page: PageSize
) -> list[EncodedEvent]:
    """Return a page of a Worker's events with `after` < sequence <= `upto`, up to the first damaged or missing one.

    Raises:
        StoreCorrupt: The first event is damaged, missing or not retained.
    """
    asked, newest = number_of(worker), after
    kept: list[EncodedEvent] = []
    bindings = {"worker": asked, "after": after, "upto": upto, "items": page.items}
    with _in_front_of_damage(kept):
        for sequence, number, previous, time, payload in _events(connection, _EVENTS, bindings, page.max_bytes):
            if number != asked:
                raise _damaged_event(sequence, asked)
            if previous != newest and (kept or previous > after):
                _cut(kept, previous)
                raise missing_event(previous, worker)
            newest = sequence
            kept.append(EncodedEvent(sequence, worker, time, payload))
    if not kept:
        check_retained(_floor(connection, worker), after)
    return kept


def all_events_between(connection: apsw.Connection, after: int, upto: int, page: PageSize) -> list[EncodedEvent]:
    """Return a page of all Workers' events with `after` < sequence <= `upto`, up to the first damaged or missing one.

    Raises:
        StoreCorrupt: The first event is damaged, or an event is missing or not retained.
    """
    kept: list[EncodedEvent] = []
    bindings = {"after": after, "upto": upto, "items": page.items}
    with _in_front_of_damage(kept):
        _fill(kept, connection, _ALL_EVENTS, bindings, page)
    _check_trimmed(connection, _TRIMMED_BEHIND, bindings)
    return kept


def tenant_events_between(
    connection: apsw.Connection, tenant: str, after: int, upto: int, page: PageSize
) -> EventPage:
    """Return a page of the events of a tenant's Workers with `after` < sequence <= `upto`.

    Raises:
        StoreCorrupt: Their first event is damaged, or one of their events is missing or not retained.
    """
    kept: list[EncodedEvent] = []
    first: int | None = connection.execute(_FIRST_EVENT, {"after": after}).get
    end = upto if first is None else min(upto, first + LOOK_AHEAD - 1)
    bindings = {"tenant": tenant, "after": after, "upto": end, "items": page.items}
    is_whole = False
    with _in_front_of_damage(kept):
        _fill(kept, connection, _TENANT_EVENTS, bindings, page)
        is_whole = not is_filled(kept, page)
    _check_trimmed(connection, _TRIMMED_BEHIND_OF_TENANT, bindings)
    return EventPage(kept, end if is_whole else kept[-1].sequence)


def _fill(
    kept: list[EncodedEvent], connection: apsw.Connection, query: str, bindings: dict[str, Any], page: PageSize
) -> None:
    """Append a page of events of any Workers. Raises StoreCorrupt behind the last one before what is missing."""
    newest: dict[int, EncodedEvent] = {}
    for sequence, number, previous, time, payload in _events(connection, query, bindings, page.max_bytes):
        before = newest.get(number)
        name = before.worker_id if before else worker_id(number)
        if previous != before.sequence if before else previous > bindings["after"]:
            _cut(kept, previous)
            raise missing_event(previous, name)
        newest[number] = event = EncodedEvent(sequence, name, time, payload)
        kept.append(event)


def _check_trimmed(connection: apsw.Connection, query: str, bindings: dict[str, Any]) -> None:
    trimmed: list[Row] = connection.execute(query, bindings).fetchall()
    if trimmed:
        [(number, floor)] = trimmed
        raise missing_event(floor, worker_id(number))


@contextlib.contextmanager
def _in_front_of_damage(kept: Sequence[EncodedEvent]) -> Iterator[None]:
    """End a page before damage. StoreCorrupt is raised only if the page is empty."""
    try:
        yield
    except StoreCorrupt:
        if not kept:
            raise


def _cut(kept: list[EncodedEvent], sequence: int) -> None:
    """End a page before a missing event, so that the next page raises the error."""
    del kept[bisect_left(kept, sequence, key=lambda event: event.sequence) :]


def _events(
    connection: apsw.Connection, query: str, bindings: dict[str, Any], room: int
) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Return the rows of a page, each checked. This is the hot path of reading, so it avoids every extra call.

    It computes `EVENTS.checksum` in place: the call is a sixth of the cost of reading an event.
    """
    with contextlib.closing(connection.execute(query, bindings)) as rows:
        for sequence, number, previous, since, transcript_len, activity, payload, time, stored in rows:
            try:
                numbers = _PACK_EVENT(sequence, number, previous, since, transcript_len, activity, time)
                sound = crc32(payload, crc32(numbers, _EVENT_SEED)) == stored
            except (TypeError, StructError):
                sound = False
            if not sound:
                raise _damaged_event(sequence, number)
            yield sequence, number, previous, time, payload
            room -= len(payload)
            if room <= 0:
                return


def _damaged_event(sequence: int, number: int) -> StoreCorrupt:
    return StoreCorrupt(f"{EVENTS.describe((sequence, number))} is damaged")


def oldest_events(
    connection: apsw.Connection, upto: int, count: int, spared: Collection[WorkerId]
) -> Sequence[TrimRange]:
    """The `count` oldest events up to `upto` of all Workers but those in `spared`, as a span of each."""
    bindings = {"upto": upto, "items": count, "spared": json.dumps([number_of(name) for name in spared])}
    return _ranges(connection.execute(_OLDEST_OF_ALL, bindings).fetchall())


def oldest_events_of_worker(
    connection: apsw.Connection, worker: WorkerId, upto: int, count: int
) -> Sequence[TrimRange]:
    """The `count` oldest events up to `upto` of one Worker, as one span."""
    bindings = {"upto": upto, "items": count, "worker": number_of(worker)}
    return _ranges(connection.execute(_OLDEST_OF_ONE, bindings).fetchall())


def oldest_events_of_tenant(
    connection: apsw.Connection, tenant: str, upto: int, count: int, spared: Collection[WorkerId]
) -> Sequence[TrimRange]:
    """The same for the Workers of one tenant. The cost depends on how many these are, not on the events of others."""
    unwanted = set(map(number_of, spared))
    found: list[Row] = connection.execute(_OLDEST_OF_WORKERS, (tenant,)).fetchall()
    first = nsmallest(count, (row for row in found if row[1] not in unwanted))
    return trim_ranges(islice(merge(*(_sizes(connection, number, upto) for _, number in first)), count))


def _sizes(connection: apsw.Connection, number: int, upto: int) -> Iterator[tuple[int, WorkerId, int]]:
    """Yield the sequence, the Worker and the size of each event of a Worker, oldest first."""
    after, name = 0, worker_id(number)
    rows: list[Row]
    while rows := connection.execute(_SIZES, (number, after, upto, SIZES_AT_ONCE)).fetchall():
        yield from ((sequence, name, size) for sequence, size in rows)
        after = rows[-1][0]


def _ranges(rows: Iterable[Row]) -> list[TrimRange]:
    return [TrimRange(worker_id(number), newest, total, size) for number, newest, total, size in rows]


def measure_events(connection: apsw.Connection, worker: WorkerId, upto: int) -> int:
    """Return the bytes of the payloads of a Worker's events with a sequence of at most `upto`."""
    found: int | None = connection.execute(_SIZE, {"worker": number_of(worker), "upto": upto}).get
    return found or 0


def records_after(
    connection: apsw.Connection,
    table: Table[Any, T],
    after: Any,
    page: PageSize,
    condition: str = "TRUE",
    bindings: Mapping[str, str] = NO_BINDINGS,
) -> Sequence[T]:
    """Return the values of rows above a key, by key, at most `page.items`, as far as a condition in SQL holds.

    Damaged rows are logged and left out. They do not count, because an empty page would look like the last one.
    """
    query = f"{table.select} WHERE {table.key} > :after AND {condition} ORDER BY {table.key}"
    with contextlib.closing(connection.execute(query, {**bindings, "after": after})) as rows:
        return list(islice(skip_damaged(table, rows), page.items))


def runtime_events_after(
    connection: apsw.Connection,
    after: int,
    page: PageSize,
    tenant: str | None,
    workers: Collection[WorkerId] | None,
) -> Sequence[RuntimeEvent]:
    """Return a page of runtime events: of these Workers, or else of one tenant, or else all."""
    condition, bindings = "TRUE", dict[str, str]()
    if workers is not None:
        condition, bindings = _ABOUT_WORKERS, {"workers": json.dumps([number_of(name) for name in workers])}
    elif tenant is not None:
        condition, bindings = _ABOUT_TENANT, {"tenant": tenant}
    return records_after(connection, RUNTIME_EVENTS, after, page, condition, bindings)


def is_purged(connection: apsw.Connection, worker: WorkerId) -> bool:
    """Return whether no row of a deleted Worker is left."""
    return not connection.execute("SELECT 1 FROM deleted WHERE worker = ?", (number_of(worker),)).get


def state_at(connection: apsw.Connection, worker: WorkerId, sequence: int) -> StateAt:
    """Return the state of a Worker right after its newest event up to `sequence`.

    It reads page by page, and starts again if events are trimmed meanwhile.

    Raises:
        StoreCorrupt: That event is not retained, or an event it is derived from is damaged or missing.
    """
    while True:
        with connection:
            floor = _floor(connection, worker)
            newest = connection.execute(_NEWEST_EVENT, {"worker": number_of(worker), "upto": sequence}).fetchall()
        if sequence < floor.sequence:
            raise StoreCorrupt(f"the state of {worker} at this event is no longer retained")
        if not newest:
            return floor.state_at
        try:
            return _behind(connection, EVENTS.read(newest[0]), floor)
        except StoreCorrupt:
            if _floor(connection, worker).sequence == floor.sequence:
                raise


def _behind(connection: apsw.Connection, stored: StoredEvent, floor: TrimPoint) -> StateAt:
    """Return the state of an event's Worker right after it."""
    event = stored.event
    if not stored.since:
        return StateAt(stored.transcript_len, Activity(stored.activity), event.timestamp_ms)
    activity, after = Activity(), stored.since - 1
    if stored.since <= floor.sequence:
        activity, after = floor.state_at.activity, floor.sequence
    while found := events_between(connection, event.worker_id, after, event.sequence, REPLAY_PAGE):
        activity, after = replay(activity, found), found[-1].sequence
    shown = Activity(stored.activity, activity.blocks, activity.permissions)
    return StateAt(stored.transcript_len, shown, event.timestamp_ms)


def _floor(connection: apsw.Connection, worker: WorkerId) -> TrimPoint:
    row = connection.execute(_TRIM_POINT, (number_of(worker),)).fetchall()
    return TRIM_POINTS.read(row[0]) if row else TrimPoint(worker, 0, StateAt(0, Activity(), 0))


def _entries(connection: apsw.Connection, query: str, worker: WorkerId, place: int, page: PageSize) -> list[Entry]:
    bindings = {"worker": number_of(worker), "place": place, "items": page.items}
    with contextlib.closing(connection.execute(query, bindings)) as rows:
        return fill_page(map(ENTRIES.read, rows), page, entry_size)


def _without_holes(entries: Sequence[Entry], worker: WorkerId, first: int) -> Sequence[Entry]:
    for expected, entry in enumerate(entries, first):
        if entry.sequence != expected:
            raise StoreCorrupt(f"the entry {expected} of {worker} is missing")
    return entries
