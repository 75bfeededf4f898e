"""Values of the core as rows of the tables in `schema`, and back, each row with a checksum over all of it.

A row that does not match its checksum raises StoreCorrupt, which names the table and what the row belongs to.
"""

import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from runtimed.core.change import Change, EncodedEvent, Entry, Event, Worker
from runtimed.errors import SerializeFailed, StoreCorrupt
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus
from runtimed.model.execution import Execution
from runtimed.model.identity import WorkerId, event_id, worker_id
from runtimed.model.worker import CreateWorkerRequest
from runtimed.wire.converter import encode, encode_payload, restore

T = TypeVar("T")
Row = tuple[Any, ...]


@attrs.frozen
class Rows:
    """One Change, ready to be written: the rows by table, and its events as they are sent."""

    events: Sequence[EncodedEvent]
    tables: Mapping[str, Sequence[Row]]
    head: int
    worker_number: int


@attrs.frozen
class StoredEvent:
    """A row of the table `event`."""

    event: EncodedEvent
    since: int
    transcript_len: int
    activity: ActivityStatus


def checksum(body: bytes, *key: object) -> int:
    """CRC-32 of a row: its body, and its other columns with the table's name."""
    return zlib.crc32(body, zlib.crc32(repr(key).encode()))


def number_of(worker: WorkerId) -> int:
    """The number in a well-formed Worker id, which is what the tables hold."""
    return int(worker.removeprefix("worker-"), 16)


def encode_change(change: Change) -> Rows:
    """Encode all of a Change. Raises SerializeFailed for text that is not Unicode."""
    try:
        return _encode_change(change)
    except (TypeError, UnicodeEncodeError) as error:
        raise SerializeFailed from error


def _encode_change(change: Change) -> Rows:
    worker, bundle = change.worker, change.bundle
    events = [EncodedEvent(event.sequence, event.worker_id, encode_payload(event.payload)) for event in change.events]
    tables = {
        "worker": [_worker_row(worker)] if worker else [],
        "state": [_state_row(worker)] if worker else [],
        "event": [_event_row(*pair) for pair in zip(change.events, events, strict=True)],
        "entry": [_entry_row(entry) for entry in change.entries],
        "bundle": [_bundle_row(bundle)] if bundle else [],
        "diagnostic": [
            _diagnostic_row(diagnostic) for diagnostic in (remark.diagnostic for remark in change.remarks)
        ],
    }
    head = max((event.sequence for event in events), default=0)
    return Rows(events, tables, head, number_of(worker.worker_id) if worker else 0)


def meta_row(key: str, value: object) -> Row:
    """A row of the table `meta`."""
    text = str(value)
    return key, text, checksum(text.encode(), "meta", key)


def _worker_row(worker: Worker) -> Row:
    number, request = number_of(worker.worker_id), encode(worker.request)
    return number, request, checksum(request, "worker", number)


def _state_row(worker: Worker) -> Row:
    key = (
        number_of(worker.worker_id),
        worker.status,
        worker.transcript_len,
        worker.last_sequence,
        worker.since,
        worker.activity,
    )
    execution = encode(worker.execution)
    return *key, execution, checksum(execution, "state", *key)


def _event_row(event: Event, encoded: EncodedEvent) -> Row:
    key = (event.sequence, number_of(event.worker_id), event.since, event.transcript_len, event.activity)
    return *key, encoded.payload, checksum(encoded.payload, "event", *key)


def _entry_row(entry: Entry) -> Row:
    key = (entry.event, number_of(entry.worker_id), entry.sequence, entry.role)
    content = entry.content.encode()
    return *key, content, checksum(content, "entry", *key)


def _bundle_row(bundle: ConfigBundle) -> Row:
    body = encode(bundle)
    return bundle.metadata.id, body, checksum(body, "bundle", bundle.metadata.id)


def _diagnostic_row(diagnostic: Diagnostic) -> Row:
    body = encode(diagnostic)
    return body, checksum(body, "diagnostic")


def meta_of(row: Row) -> tuple[str, str]:
    """The key and value of a row of `meta`."""
    key, value, stored = row
    _verify(stored, str(value).encode(), f"the meta row {key!r}", "meta", key)
    return key, value


def event_of(row: Row) -> StoredEvent:
    """The event in a row of `event`."""
    *key, payload, stored = row
    sequence, worker, since, transcript_len, activity = key
    if not _sound(stored, payload, "event", *key):
        raise StoreCorrupt(f"the event {event_id(sequence)} of {_named(worker)} is damaged")
    return StoredEvent(EncodedEvent(sequence, worker_id(worker), payload), since, transcript_len, activity)


def entry_of(row: Row) -> Entry:
    """The entry in a row of `entry`."""
    *key, content, stored = row
    event, worker, sequence, role = key
    if not _sound(stored, content, "entry", *key):
        raise StoreCorrupt(f"the entry {sequence} of {_named(worker)} is damaged")
    return Entry(worker_id(worker), sequence, role, content.decode(), event)


def workers_of(rows: Iterable[Row]) -> list[Worker]:
    """The Workers in rows of `worker` joined with `state`. Equal requests and executions become one value."""
    request_of = functools.cache(lambda body: _restored(body, CreateWorkerRequest, "a Worker's request"))
    execution_of = functools.cache(lambda body: _restored(body, Execution, "a Worker's execution"))
    found = []
    for number, request, request_stored, *key, execution, stored in rows:
        name = f"the row of {_named(number)}"
        _verify(request_stored, request, name, "worker", number)
        _verify(stored, execution, name, "state", number, *key)
        status, transcript_len, last_sequence, since, activity = key
        found.append(
            Worker(
                worker_id(number),
                request_of(request),
                status,
                execution_of(execution),
                transcript_len,
                last_sequence,
                since,
                activity,
            )
        )
    return found


def bundle_of(row: Row) -> ConfigBundle:
    """The bundle in a row of `bundle`."""
    key, body, stored = row
    _verify(stored, body, f"the bundle {key!r}", "bundle", key)
    return _restored(body, ConfigBundle, f"the bundle {key!r}")


def diagnostic_of(row: Row) -> Diagnostic:
    """The diagnostic in a row of `diagnostic`."""
    number, body, stored = row
    _verify(stored, body, f"the diagnostic {number}", "diagnostic")
    return _restored(body, Diagnostic, f"the diagnostic {number}")


def _sound(stored: object, body: object, *key: object) -> bool:
    return isinstance(body, bytes) and checksum(body, *key) == stored


def _verify(stored: object, body: object, name: str, *key: object) -> None:
    if not _sound(stored, body, *key):
        raise StoreCorrupt(f"{name} is damaged")


def _restored(body: bytes, kind: type[T], name: str) -> T:
    try:
        return restore(body, kind)
    except ValueError as error:
        raise StoreCorrupt(f"{name} is nothing that this version knows") from error


def _named(worker: object) -> str:
    return worker_id(worker) if isinstance(worker, int) else "an unknown Worker"
