"""How many rows there are of each Worker, so that one that is missing is noticed without reading them all."""

from collections.abc import Iterator, Mapping

import apsw
import attrs

from runtimed.core.state.change import Worker
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import cursor_of
from runtimed.store.rows import entry_of, event_of

MAX_NUMBER = 0xFFFFFFFF
"""The highest number that a Worker id has digits for."""

_EVENTS = "SELECT worker, count(*) FROM event"
_ENTRIES = "SELECT worker, count(*) FROM entry"
_ENDS = """
    SELECT number,
        (SELECT max(sequence) FROM event WHERE worker = number),
        (SELECT previous FROM event WHERE worker = number ORDER BY sequence LIMIT 1),
        (SELECT max(sequence) FROM entry WHERE worker = number)
    FROM worker
"""
STRAYS = """
    SELECT worker FROM state WHERE worker NOT IN (SELECT number FROM worker)
    UNION SELECT worker FROM floor WHERE worker NOT IN (SELECT number FROM worker)
"""
_AN_EVENT = """
    SELECT sequence, worker, previous, since, transcript_len, activity, payload, checksum, timestamp_ms FROM event
    WHERE worker = ? LIMIT 1
"""
_AN_ENTRY = """
    SELECT event, worker, sequence, role, content, checksum, timestamp_ms FROM entry WHERE worker = ? LIMIT 1
"""
_MISSING_ENTRY = """
    SELECT min(sequence) + 1 FROM entry AS earlier WHERE worker = :worker
    AND NOT EXISTS (SELECT 1 FROM entry WHERE worker = :worker AND sequence = earlier.sequence + 1)
"""
_FIRST_ENTRY = "SELECT 1 FROM entry WHERE worker = ? AND sequence = 1"
_MISSING_EVENT = """
    SELECT min(previous) FROM event WHERE worker = :worker AND previous > :floor
    AND previous NOT IN (SELECT sequence FROM event WHERE worker = :worker)
"""


@attrs.frozen
class Held:
    """The rows that there are of a Worker, with the sequence of its newest event and that before its oldest one."""

    events: int = 0
    entries: int = 0
    newest: int = 0
    before: int = 0
    newest_entry: int = 0


NOTHING = Held()


def held_of(connection: apsw.Connection, number: int) -> Held:
    """The rows that there are of one Worker."""
    counts = [connection.execute(f"{query} WHERE worker = ?", (number,)).get[1] for query in (_EVENTS, _ENTRIES)]
    ends = connection.execute(f"{_ENDS} WHERE number = ?", (number,)).get[1:]
    return Held(*counts, *(end or 0 for end in ends))


def held_by_all(connection: apsw.Connection) -> Mapping[int, Held]:
    """The rows that there are of every Worker that has any; they are counted by an index alone."""
    events = dict(connection.execute(f"{_EVENTS} GROUP BY worker"))
    entries = dict(connection.execute(f"{_ENTRIES} GROUP BY worker"))
    ends = {number: ends for number, *ends in connection.execute(_ENDS)}
    return {
        number: Held(events.get(number, 0), entries.get(number, 0), *(end or 0 for end in ends.get(number, ())))
        for number in events.keys() | entries.keys()
    }


def fault(connection: apsw.Connection, number: int, worker: Worker, held: Held) -> str | None:
    """What is missing of a Worker, in words, or None."""
    if not held.entries == held.newest_entry == worker.transcript_len:
        return _wrong_entries(connection, number, worker, held)
    whole = held.events == worker.retained and max(held.newest, worker.retained_after) == worker.last_sequence
    if not whole or (held.events and held.before != worker.retained_after):
        return _wrong_events(connection, number, worker, held)
    return None


def strays(connection: apsw.Connection, held: Mapping[int, Held], known: set[int]) -> Iterator[int]:
    """The numbers of Workers of which there is something, but no row. A damaged row is no sign of one."""
    left = {number for number in held.keys() - known if _is_of(connection, number, held[number])}
    left |= {row[0] for row in connection.execute(STRAYS)}
    yield from sorted(number for number in left if 0 < number <= MAX_NUMBER)


def _is_of(connection: apsw.Connection, number: int, held: Held) -> bool:
    try:
        if held.events:
            return bool([event_of(row) for row in connection.execute(_AN_EVENT, (number,))])
        return bool([entry_of(row) for row in connection.execute(_AN_ENTRY, (number,))])
    except StoreCorrupt:
        return False


def _wrong_entries(connection: apsw.Connection, number: int, worker: Worker, held: Held) -> str:
    if held.entries > worker.transcript_len:
        return f"there are {held.entries} entries, not {worker.transcript_len}"
    first = connection.execute(_FIRST_ENTRY, (number,)).get
    missing = connection.execute(_MISSING_ENTRY, {"worker": number}).get if first else 1
    return f"the entry {missing} is missing"


def _wrong_events(connection: apsw.Connection, number: int, worker: Worker, held: Held) -> str:
    missing = connection.execute(_MISSING_EVENT, {"worker": number, "floor": worker.retained_after}).get
    if missing is None and max(held.newest, worker.retained_after) < worker.last_sequence:
        missing = worker.last_sequence
    if missing is not None:
        return f"the event {cursor_of(missing)} is missing"
    return f"there are {held.events} events, not {worker.retained}"
