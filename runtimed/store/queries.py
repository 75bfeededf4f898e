"""The reads of the durable store; each leaves no statement open behind it."""

import contextlib
import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from struct import error as StructError  # noqa: N812 it is a class
from typing import Any
from zlib import crc32

import apsw

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import EncodedEvent, Entry, StateAt, TrimRange
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId, worker_id
from runtimed.model.runtime import RuntimeEvent
from runtimed.store.replay import check_floor, cut, entry_size, missing_event, replay
from runtimed.store.rows import (
    EVENT_SEED,
    PACK_EVENT,
    Floor,
    Row,
    StoredEvent,
    damaged_event,
    entry_of,
    event_of,
    floor_of,
    number_of,
    readable,
    runtime_event_of,
)

REPLAY_PAGE = PageSize(items=1_000, max_bytes=1024 * 1024)

_ENTRIES = """
    SELECT event, worker, sequence, role, content, checksum, timestamp_ms FROM entry
    WHERE worker = :worker AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.worker = :worker)
"""
_EVENTS = """
    SELECT sequence, worker, previous, since, transcript_len, activity, payload, checksum, timestamp_ms FROM event
    WHERE worker = :worker AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.worker = :worker)
    AND sequence > :after AND sequence <= :upto ORDER BY sequence LIMIT :items
"""
_ALL_EVENTS = """
    SELECT sequence, worker, previous, since, transcript_len, activity, payload, checksum, timestamp_ms FROM event
    WHERE sequence > :after AND sequence <= :upto
    AND worker NOT IN (SELECT worker FROM deleted) ORDER BY sequence LIMIT :items
"""
_NEWEST_EVENT = """
    SELECT sequence, worker, previous, since, transcript_len, activity, payload, checksum, timestamp_ms FROM event
    WHERE worker = :worker AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.worker = :worker)
    AND sequence <= :upto ORDER BY sequence DESC LIMIT 1
"""
_OLDEST_OF_ONE = """
    SELECT worker, max(sequence), count(*) FROM (
        SELECT worker, sequence FROM event
        WHERE worker = :worker AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.worker = :worker)
        AND sequence <= :upto ORDER BY sequence LIMIT :items
    ) GROUP BY worker
"""
_OLDEST_OF_ALL = """
    SELECT worker, max(sequence), count(*) FROM (
        SELECT worker, sequence FROM event
        WHERE sequence <= :upto AND worker NOT IN (SELECT worker FROM deleted)
        AND worker NOT IN (SELECT value FROM json_each(:spared)) ORDER BY sequence LIMIT :items
    ) GROUP BY worker ORDER BY 2
"""
_FLOOR = """
    SELECT worker, sequence, transcript_len, activity, in_flight, checksum, timestamp_ms FROM floor
    WHERE worker = :worker
"""
_FLOOR_BEHIND = "SELECT worker, sequence FROM floor WHERE sequence > ? LIMIT 1"
_RUNTIME_EVENTS = """
    SELECT id, kind, worker, event, unix_ms, checksum FROM runtime_event WHERE id > ? ORDER BY id
"""


def entries_after(connection: apsw.Connection, worker: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
    """As Store.read_entries."""
    query = f"{_ENTRIES} AND sequence > :place ORDER BY sequence LIMIT :items"
    return _without_holes(_entries(connection, query, worker, start, page), worker, start + 1)


def newest_entries(connection: apsw.Connection, worker: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
    """As Store.newest_entries."""
    query = f"{_ENTRIES} AND sequence <= :place ORDER BY sequence DESC LIMIT :items"
    found = _entries(connection, query, worker, upto, page)
    found.reverse()
    return _without_holes(found, worker, found[0].sequence if found else 0)


def events_between(
    connection: apsw.Connection, worker: WorkerId, after: int, upto: int, page: PageSize
) -> list[EncodedEvent]:
    """As Store.read_events."""
    asked, newest = number_of(worker), after
    kept: list[EncodedEvent] = []
    bindings = {"worker": asked, "after": after, "upto": upto, "items": page.items}
    with _in_front_of_damage(kept):
        for sequence, number, previous, time, payload in _events(connection, _EVENTS, bindings, page.max_bytes):
            if number != asked:
                raise damaged_event(sequence, asked)
            if previous != newest and (kept or previous > after):
                _cut(kept, previous)
                raise missing_event(previous, worker)
            newest = sequence
            kept.append(EncodedEvent(sequence, worker, time, payload))
    if not kept:
        check_floor(_floor(connection, worker), after)
    return kept


def all_events_between(connection: apsw.Connection, after: int, upto: int, page: PageSize) -> list[EncodedEvent]:
    """As Store.read_all_events."""
    newest: dict[int, EncodedEvent] = {}
    kept: list[EncodedEvent] = []
    bindings = {"after": after, "upto": upto, "items": page.items}
    with _in_front_of_damage(kept):
        for sequence, number, previous, time, payload in _events(connection, _ALL_EVENTS, bindings, page.max_bytes):
            before = newest.get(number)
            name = before.worker_id if before else worker_id(number)
            if previous != before.sequence if before else previous > after:
                _cut(kept, previous)
                raise missing_event(previous, name)
            newest[number] = event = EncodedEvent(sequence, name, time, payload)
            kept.append(event)
    trimmed: list[Row] = connection.execute(_FLOOR_BEHIND, (after,)).fetchall()
    if trimmed:
        [(number, floor)] = trimmed
        raise missing_event(floor, worker_id(number))
    return kept


@contextlib.contextmanager
def _in_front_of_damage(kept: Sequence[EncodedEvent]) -> Iterator[None]:
    """Let a page end where what follows is damaged or missing; StoreCorrupt is only raised where nothing was kept."""
    try:
        yield
    except StoreCorrupt:
        if not kept:
            raise


def _cut(kept: list[EncodedEvent], sequence: int) -> None:
    """Let a page end in front of an event that is missing, so that the next one meets it."""
    del kept[bisect_left(kept, sequence, key=lambda event: event.sequence) :]


def _events(
    connection: apsw.Connection, query: str, bindings: dict[str, int], room: int
) -> Iterator[tuple[int, int, int, int, bytes]]:
    """What a page holds of its rows. Millions are read like this, so that nothing here is called that need not be."""
    with contextlib.closing(connection.execute(query, bindings)) as rows:
        for sequence, number, previous, since, transcript_len, activity, payload, stored, time in rows:
            try:
                key = PACK_EVENT(sequence, number, previous, since, transcript_len, activity, time)
                sound = crc32(payload, crc32(key, EVENT_SEED)) == stored
            except (TypeError, StructError):
                sound = False
            if not sound:
                raise damaged_event(sequence, number)
            yield sequence, number, previous, time, payload
            room -= len(payload)
            if room <= 0:
                return


def oldest_events(
    connection: apsw.Connection, worker: WorkerId | None, upto: int, count: int, spared: Collection[WorkerId]
) -> Sequence[TrimRange]:
    """As Store.oldest_events."""
    bindings: dict[str, Any] = {"upto": upto, "items": count}
    if worker is None:
        bindings["spared"] = json.dumps([number_of(name) for name in spared])
        rows: list[Row] = connection.execute(_OLDEST_OF_ALL, bindings).fetchall()
    else:
        rows = connection.execute(_OLDEST_OF_ONE, bindings | {"worker": number_of(worker)}).fetchall()
    return [TrimRange(worker_id(number), newest, total) for number, newest, total in rows]


def runtime_events_after(connection: apsw.Connection, after: int, page: PageSize) -> Sequence[RuntimeEvent]:
    """As Store.read_runtime_events. A page that damage empties would look like the last one, so it reads on."""
    with contextlib.closing(connection.execute(_RUNTIME_EVENTS, (after,))) as rows:
        return list(islice(readable(rows, runtime_event_of), page.items))


def is_purged(connection: apsw.Connection, worker: WorkerId) -> bool:
    """Whether nothing is left of a Worker that was deleted."""
    return not connection.execute("SELECT 1 FROM deleted WHERE worker = ?", (number_of(worker),)).get


def state_at(connection: apsw.Connection, worker: WorkerId, sequence: int) -> StateAt:
    """As Store.moment. It reads page by page; what is trimmed meanwhile only has it begin again, further on."""
    while True:
        with connection:
            floor = _floor(connection, worker)
            newest = connection.execute(_NEWEST_EVENT, {"worker": number_of(worker), "upto": sequence}).fetchall()
        if sequence < floor.sequence:
            raise StoreCorrupt(f"how {worker} stood there is not retained any more")
        if not newest:
            return floor.state_at
        try:
            return _behind(connection, event_of(newest[0]), floor)
        except StoreCorrupt:
            if _floor(connection, worker).sequence == floor.sequence:
                raise


def _behind(connection: apsw.Connection, stored: StoredEvent, floor: Floor) -> StateAt:
    """How the Worker of an event stood right behind it."""
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


def _floor(connection: apsw.Connection, worker: WorkerId) -> Floor:
    row = connection.execute(_FLOOR, {"worker": number_of(worker)}).fetchall()
    return floor_of(row[0]) if row else Floor(worker, 0, StateAt(0, Activity(), 0))


def _entries(connection: apsw.Connection, query: str, worker: WorkerId, place: int, page: PageSize) -> list[Entry]:
    bindings = {"worker": number_of(worker), "place": place, "items": page.items}
    with contextlib.closing(connection.execute(query, bindings)) as rows:
        return cut(map(entry_of, rows), page, entry_size)


def _without_holes(entries: Sequence[Entry], worker: WorkerId, first: int) -> Sequence[Entry]:
    for expected, entry in enumerate(entries, first):
        if entry.sequence != expected:
            raise StoreCorrupt(f"the entry {expected} of {worker} is missing")
    return entries
