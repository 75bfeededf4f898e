"""A Change as the rows that it adds, and what it takes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from runtimed.core.state.change import Change, EncodedEvent, Event, Forgotten
from runtimed.errors import SerializeFailed
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store import rows
from runtimed.store.rows import Row, number_of
from runtimed.wire.converter import encode_payload

HIGH_NUMBERS = ("head", "worker_number", "remark_number", "runtime_event_id")
"""What must never be given out twice, as it is called in StoredState and in the table `meta`."""

PURGE_ROWS = 250
"""Rows of a deleted Worker that go at a time: some milliseconds in which nothing else is written."""

Requests = Mapping[int, CreateWorkerRequest]


@value
class Rows:
    """What is to be written for one Change: new rows by table, and what goes.

    `high` has the numbers that must never come twice, by the key in `meta`; `event_bytes` are those that it adds.
    `request` is new in the table `worker`. `trimmed` is a Worker and the newest event of it to go; of a Worker in
    `purged`, which is deleted, some more goes. What is `vital` is stored on a full disk too, as long as it can be.
    """

    events: Sequence[EncodedEvent] = ()
    tables: Mapping[str, Sequence[Row]] = attrs.field(factory=dict)
    high: Mapping[str, int] = attrs.field(factory=dict)
    event_bytes: int = 0
    request: tuple[int, CreateWorkerRequest] | None = None
    trimmed: tuple[int, int] | None = None
    deleted: int | None = None
    forgotten: Forgotten | None = None
    purged: int | None = None
    vital: bool = False


def encode_events(change: Change, known: Requests) -> Sequence[EncodedEvent]:
    """The events of a Change as they are sent; what else it has is looked at, and nothing more is made of it.

    Raises SerializeFailed as encode_change does.
    """
    worker = change.worker
    if (
        change.bundle
        or change.diagnostics
        or (worker and known.get(number_of(worker.worker_id)) is not worker.request)
    ):
        return encode_change(change, known).events
    said = worker.execution.last_result if worker else None
    try:
        if said and said.message:
            said.message.encode()
        for entry in change.entries:
            entry.content.encode()
        return [_encode_event(event) for event in change.events]
    except (TypeError, UnicodeEncodeError) as error:
        raise SerializeFailed from error


def encode_change(change: Change, known: Requests) -> Rows:
    """Encode all of a Change; `known` has the requests that are stored already, by Worker number.

    Raises SerializeFailed for text that is not Unicode.
    """
    try:
        return _encode_change(change, known)
    except (TypeError, UnicodeEncodeError) as error:
        raise SerializeFailed from error


def _encode_change(change: Change, known: Requests) -> Rows:
    tables: dict[str, Sequence[Row]] = {}
    high: dict[str, int] = {}
    events: list[EncodedEvent] = []
    event_bytes = 0
    request: tuple[int, CreateWorkerRequest] | None = None
    if (worker := change.worker) is not None:
        number = high["worker_number"] = number_of(worker.worker_id)
        if known.get(number) is not worker.request:
            request = number, worker.request
            tables["worker"] = [rows.worker_row(*request, worker.created_at_ms)]
        tables["state"] = [rows.state_row(number, worker)]
    if change.events:
        found = tables["event"] = []
        for event in change.events:
            encoded = _encode_event(event)
            events.append(encoded)
            found.append(rows.event_row(number_of(event.worker_id), event, encoded.payload))
            event_bytes += len(encoded.payload)
        high["head"] = max(event.sequence for event in events)
    if change.entries:
        tables["entry"] = [rows.entry_row(number_of(entry.worker_id), entry) for entry in change.entries]
    trim = change.trim
    if any((change.bundle, change.diagnostics, change.runtime_events, change.mark, change.deleted, trim)):
        _encode_rare(change, tables, high)
    return Rows(
        events,
        tables,
        high,
        event_bytes,
        request,
        (number_of(trim.trim_range.worker_id), trim.trim_range.upto) if trim else None,
        number_of(change.deleted) if change.deleted else None,
        change.forgotten,
        vital=_is_vital(change),
    )


def _encode_event(event: Event) -> EncodedEvent:
    return EncodedEvent(event.sequence, event.worker_id, event.timestamp_ms, encode_payload(event.payload))


def _is_vital(change: Change) -> bool:
    """Whether a Change ends a Worker or the Runtime, or makes room."""
    ended = change.worker is not None and change.worker.status != "running"
    if ended or change.trim or change.deleted or change.forgotten:
        return True
    return bool(change.runtime_events) and any(event.kind == "runtime_stopped" for event in change.runtime_events)


def _encode_rare(change: Change, tables: dict[str, Any], high: dict[str, int]) -> None:
    if change.bundle:
        tables["bundle"] = [rows.bundle_row(change.bundle)]
    if change.diagnostics:
        tables["remark"] = [rows.remark_row(remark) for remark in change.diagnostics]
        high["remark_number"] = max(remark.number for remark in change.diagnostics)
    if change.runtime_events:
        tables["runtime_event"] = [rows.runtime_event_row(event) for event in change.runtime_events]
        high["runtime_event_id"] = max(event.id for event in change.runtime_events)
    if change.trim:
        tables["floor"] = [rows.floor_row(change.trim)]
    if change.mark:
        tables["mark"] = [rows.mark_row(change.mark)]
    if change.deleted:
        tables["deleted"] = [rows.deleted_row(number_of(change.deleted))]
