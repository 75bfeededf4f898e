"""A Change as the rows that it adds and what it removes."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from runtimed.core.state.change import Change, EncodedEvent, Event, Forgotten, Worker
from runtimed.errors import SerializeFailed
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store import records
from runtimed.store.records import ENTRIES, EVENTS, STATES, WORKERS, number_of
from runtimed.store.tables import Row, Table
from runtimed.wire.converter import encode_payload

PURGE_ROWS = 250
"""Rows of a deleted Worker that are removed at a time. That blocks other writes for a few milliseconds."""

PURGE_ATTACHMENTS = 4
"""Attachments of a deleted Worker that are removed at a time. One may take 8 MiB."""

Requests = Mapping[int, CreateWorkerRequest]

_PAYLOAD = EVENTS.place_of("payload")


@value
class EncodedChange:
    """What a Change writes and removes.

    Args:
        events: The events as they are sent, in the order given.
        rows: New rows by table, as the store keeps them.
        counters: The highest numbers that the rows give out, by key.
        event_bytes: The size of the payloads of the events.
        request: The number and request of a Worker that is new in the table `worker`.
        trimmed: A Worker's number and the sequence up to which its events are removed.
        deleted: The number of a Worker that is deleted.
        forgotten: What is no longer kept.
        revoked: The name of a token that is deleted.
        purged: The number of a deleted Worker of which up to PURGE_ROWS more rows are removed.
        vital: Whether the Change may use the space that is reserved for a full disk.
    """

    events: Sequence[EncodedEvent] = ()
    rows: Mapping[Table[Any, Any], Sequence[Row]] = attrs.field(factory=dict)
    counters: Mapping[str, int] = attrs.field(factory=dict)
    event_bytes: int = 0
    request: tuple[int, CreateWorkerRequest] | None = None
    trimmed: tuple[int, int] | None = None
    deleted: int | None = None
    forgotten: Forgotten | None = None
    revoked: str | None = None
    purged: int | None = None
    vital: bool = False


def encode_events(events: Sequence[Event]) -> list[EncodedEvent]:
    """Encode the payloads of events. Raises TypeError for text that is not Unicode."""
    return [EncodedEvent(e.sequence, e.worker_id, e.timestamp_ms, encode_payload(e.payload)) for e in events]


def encode_change(change: Change, known: Requests) -> EncodedChange:
    """Encode all of a Change, once.

    Args:
        change: The Change.
        known: The requests that are stored already, by Worker number.

    Raises:
        SerializeFailed: The Change contains text that is not Unicode.
    """
    try:
        return _encode_change(change, known)
    except (TypeError, UnicodeEncodeError) as error:
        raise SerializeFailed from error


def _encode_change(change: Change, known: Requests) -> EncodedChange:
    rows: dict[Table[Any, Any], Sequence[Row]] = {}
    counters: dict[str, int] = {}
    events: list[EncodedEvent] = []
    request = None
    if change.worker is not None:
        rows[STATES] = (STATES.row(change.worker),)
        request = _new_request(change.worker, known)
        if request is not None:
            rows[WORKERS] = (WORKERS.row(change.worker),)
            counters["worker_number"] = request[0]
    if change.events:
        rows[EVENTS] = made = EVENTS.rows(change.events)
        events = [
            EncodedEvent(row[0], e.worker_id, e.timestamp_ms, row[_PAYLOAD])
            for e, row in zip(change.events, made, strict=True)
        ]
        counters["head"] = max([event.sequence for event in events])
    if change.entries:
        rows[ENTRIES] = ENTRIES.rows(change.entries)
    for table, items in records.TABLES.parts(change):
        rows[table] = made = table.rows(items)
        if table.counter is not None:
            highest = max([row[table.counter_at] for row in made])
            counters[table.counter.key] = max(highest, counters.get(table.counter.key, 0))
    return EncodedChange(
        events,
        rows,
        counters,
        sum([len(event.payload) for event in events]),
        request,
        (number_of(change.trim.trim_range.worker_id), change.trim.trim_range.upto) if change.trim else None,
        number_of(change.deleted) if change.deleted else None,
        change.forgotten,
        change.revoked,
        vital=_is_vital(change),
    )


def _new_request(worker: Worker, known: Requests) -> tuple[int, CreateWorkerRequest] | None:
    number = number_of(worker.worker_id)
    return None if known.get(number) is worker.request else (number, worker.request)


def _is_vital(change: Change) -> bool:
    """Return whether a Change ends a Worker, the Runtime or a token, or frees space."""
    ended = change.worker is not None and change.worker.status != "running"
    ended = ended or (change.revoked is not None and change.token is None)
    if ended or change.trim or change.deleted or change.forgotten:
        return True
    return "runtime_stopped" in [event.kind for event in change.runtime_events]
