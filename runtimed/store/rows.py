"""Values of the core as rows of the tables in `schema`, and back, each row with a checksum over all of it.

A row that does not match its checksum raises StoreCorrupt, which names the table and what the row belongs to.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from struct import error as StructError  # noqa: N812 it is a class
from typing import Any, TypeVar
from zlib import crc32

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import (
    EncodedEvent,
    Entry,
    Event,
    Mark,
    NumberedDiagnostic,
    QueuedInput,
    StateAt,
    Trim,
    Worker,
)
from runtimed.errors import StoreCorrupt
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus, InFlightBlock
from runtimed.model.execution import Execution
from runtimed.model.identity import WorkerId, cursor_of, worker_id
from runtimed.model.permission import Permission
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.transcript import Role
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest, WorkerStatus
from runtimed.wire.converter import encode, restore

T = TypeVar("T")
Row = tuple[Any, ...]

ACTIVITIES: tuple[ActivityStatus, ...] = ("idle", "running", "paused")
STATUSES: tuple[WorkerStatus, ...] = ("running", "stopped", "cancelled")
ROLES: tuple[Role, ...] = ("user", "assistant", "system")
"""What the numbers in the columns `activity`, `status` and `role` mean; new ones are added at the end."""

AWAITS_RUN_END = len(ACTIVITIES)
"""What stands for `idle` in the column `activity` of `state` where a `run_end` is missing yet."""

ABSENT = -1
"""What stands for a column without a value in a checksum."""

_ACTIVITY = {name: code for code, name in enumerate(ACTIVITIES)}
_STATUS = {name: code for code, name in enumerate(STATUSES)}
_ROLE = {name: code for code, name in enumerate(ROLES)}

_log = logging.getLogger(__name__)

PACK_EVENT = Struct("<7q").pack
EVENT_SEED = crc32(b"event")
"""An event's checksum is that of its payload, started from that of its other columns, started from the table's."""

_PACK = {count: Struct(f"<{count}q").pack for count in range(1, 10)}


@value
class StoredEvent:
    """A row of the table `event`."""

    event: EncodedEvent
    previous: int
    since: int
    transcript_len: int
    activity: ActivityStatus


@value
class Open:
    """What was open right behind an event, as the table `floor` keeps it."""

    blocks: tuple[InFlightBlock, ...] = ()
    permissions: tuple[Permission, ...] = ()


@value
class Floor:
    """The newest event of a Worker that is retained no longer, 0 for none, and how it stood right behind that."""

    worker_id: WorkerId
    sequence: int
    state_at: StateAt


def checksum(table: bytes, body: bytes, *key: int) -> int:
    """CRC-32 of a row: its body, and its other columns with the table's name."""
    return crc32(body, crc32(_PACK[len(key)](*key), crc32(table)))


def text_checksum(table: bytes, body: bytes, key: str) -> int:
    """The same of a row that is known by a text."""
    return crc32(body, crc32(key.encode(), crc32(table)))


def event_checksum(payload: bytes, *key: int) -> int:
    """As `checksum`, with the work that can be done once done once: most rows are events."""
    return crc32(payload, crc32(PACK_EVENT(*key), EVENT_SEED))


def number_of(worker: WorkerId) -> int:
    """The number in a well-formed Worker id, which is what the tables hold."""
    return int(worker[7:], 16)


def _optional(worker: WorkerId | None) -> int | None:
    return None if worker is None else number_of(worker)


def _packed(number: int | None) -> int:
    return ABSENT if number is None else number


def meta_row(key: str, value: object) -> Row:
    """A row of the table `meta`."""
    text = str(value)
    return key, text, text_checksum(b"meta", text.encode(), key)


def worker_row(number: int, request: CreateWorkerRequest, created_at_ms: int) -> Row:
    """The row of a Worker that never changes."""
    body = encode(request)
    return number, body, checksum(b"worker", body, number, created_at_ms), created_at_ms


def state_row(number: int, worker: Worker) -> Row:
    """The row of a Worker that changes; its floor has one of its own."""
    key = (
        number,
        _STATUS[worker.status],
        worker.transcript_len,
        worker.last_sequence,
        worker.since,
        AWAITS_RUN_END if worker.awaits_run_end else _ACTIVITY[worker.activity],
        worker.retained,
    )
    execution, last_event_ms = _encode_execution(worker.execution), worker.last_event_ms
    waiting = encode(worker.queued) if worker.queued else b""
    found = checksum(b"state", execution, *key, last_event_ms)
    return *key, execution, crc32(waiting, found), waiting, last_event_ms


def event_row(number: int, event: Event, payload: bytes) -> Row:
    """An event, whose payload is encoded already."""
    key = (event.sequence, number, event.previous, event.since, event.transcript_len, _ACTIVITY[event.activity])
    return *key, payload, event_checksum(payload, *key, event.timestamp_ms), event.timestamp_ms


def entry_row(number: int, entry: Entry) -> Row:
    """An entry."""
    key = (entry.event, number, entry.sequence, _ROLE[entry.role])
    content = entry.content.encode()
    return *key, content, checksum(b"entry", content, *key, entry.timestamp_ms), entry.timestamp_ms


def floor_row(trim: Trim) -> Row:
    """How a Worker stood where its retained events begin."""
    state_at, activity = trim.state_at, trim.state_at.activity
    number = number_of(trim.trim_range.worker_id)
    key = (number, trim.trim_range.upto, state_at.transcript_len, _ACTIVITY[activity.status])
    in_flight = activity.in_flight()
    opened = Open(in_flight.blocks if in_flight else (), activity.permissions)
    body = encode(opened) if activity.open else b""
    return *key, body, checksum(b"floor", body, *key, state_at.timestamp_ms), state_at.timestamp_ms


def bundle_row(bundle: ConfigBundle) -> Row:
    """A bundle."""
    body = encode(bundle)
    return bundle.metadata.id, body, text_checksum(b"bundle", body, bundle.metadata.id)


def remark_row(remark: NumberedDiagnostic) -> Row:
    """A remark."""
    worker, body = _optional(remark.diagnostic.worker_id), encode(remark.diagnostic)
    return remark.number, worker, body, checksum(b"remark", body, remark.number, _packed(worker))


def runtime_event_row(event: RuntimeEvent) -> Row:
    """An event in the life of the Runtime."""
    worker, told = _optional(event.worker_id), event.event_id
    key = (event.id, _packed(worker), _packed(told), event.timestamp_ms)
    found = checksum(b"runtime_event", event.kind.encode(), *key)
    return event.id, event.kind, worker, told, event.timestamp_ms, found


def mark_row(mark: Mark) -> Row:
    """A mark."""
    return mark.sequence, mark.unix_ms, checksum(b"mark", b"", mark.sequence, mark.unix_ms)


def deleted_row(number: int) -> Row:
    """A Worker that is gone."""
    return number, checksum(b"deleted", b"", number)


@functools.lru_cache(maxsize=256)
def _encode_execution(execution: Execution) -> bytes:
    return encode(execution)


def readable(rows: Iterable[Row], value_of: Callable[[Row], T]) -> Iterator[T]:
    """The values of the rows that are sound; the others are logged."""
    for row in rows:
        try:
            yield value_of(row)
        except StoreCorrupt as error:
            _log.error("%s, and was left out", error.message)


def meta_of(row: Row) -> tuple[str, str]:
    """The key and value of a row of `meta`."""
    key, value, stored = row
    if text_checksum(b"meta", str(value).encode(), str(key)) != stored:
        raise StoreCorrupt(f"the meta row {key!r} is damaged")
    return key, value


def event_of(row: Row) -> StoredEvent:
    """The event in a row of `event`."""
    sequence, number, previous, since, transcript_len, activity, payload, stored, timestamp_ms = row
    try:
        sound = event_checksum(payload, *row[:6], timestamp_ms) == stored
    except (TypeError, StructError):
        sound = False
    if not sound:
        raise damaged_event(sequence, number)
    event = EncodedEvent(sequence, worker_id(number), timestamp_ms, payload)
    return StoredEvent(event, previous, since, transcript_len, ACTIVITIES[activity])


def damaged_event(sequence: int, number: object) -> StoreCorrupt:
    """What to say of an event that is not what was stored."""
    return StoreCorrupt(f"the event {cursor_of(sequence)} of {_named(number)} is damaged")


def entry_of(row: Row) -> Entry:
    """The entry in a row of `entry`."""
    event, number, sequence, role, content, stored, timestamp_ms = row
    name, key = f"the entry {sequence} of {_named(number)}", (event, number, sequence, role, timestamp_ms)
    _verify(name, stored, b"entry", content, *key)
    return Entry(worker_id(number), sequence, ROLES[role], content.decode(), event, timestamp_ms)


def worker_reader() -> Callable[[Row, int], Worker]:
    """Make Workers of rows of `worker` joined with `state`, and floors. Equal requests and executions become one."""
    request_of = functools.cache(lambda body: _restored(body, CreateWorkerRequest, "a Worker's request"))
    execution_of = functools.cache(lambda body: _restored(body, Execution, "a Worker's execution"))

    def worker_of(row: Row, floor: int) -> Worker:
        number, request, request_stored, created_at_ms, *key, execution, stored, waiting, last_event_ms = row
        name = f"the row of {worker_id(number)}"
        _verify(name, request_stored, b"worker", request, number, created_at_ms)
        _verify(name, stored, b"state", execution, number, *key, last_event_ms, tail=waiting)
        status, transcript_len, last_sequence, since, activity, retained = key
        return Worker(
            worker_id(number),
            request_of(request),
            STATUSES[status],
            execution_of(execution),
            transcript_len,
            last_sequence,
            since,
            "idle" if activity == AWAITS_RUN_END else ACTIVITIES[activity],
            floor,
            retained,
            _restored(waiting, tuple[QueuedInput, ...], name) if waiting else (),
            created_at_ms,
            last_event_ms,
            activity == AWAITS_RUN_END,
        )

    return worker_of


def floor_of(row: Row) -> Floor:
    """The floor in a row of `floor`."""
    number, sequence, transcript_len, activity, body, stored, timestamp_ms = row
    name = f"the floor of {worker_id(number)}"
    _verify(name, stored, b"floor", body, number, sequence, transcript_len, activity, timestamp_ms)
    opened = _restored(body, Open, name) if body else Open()
    stood = Activity.of(ACTIVITIES[activity], opened.blocks, opened.permissions)
    return Floor(worker_id(number), sequence, StateAt(transcript_len, stood, timestamp_ms))


def bundle_of(row: Row) -> ConfigBundle:
    """The bundle in a row of `bundle`."""
    key, body, stored = row
    if not isinstance(body, bytes) or text_checksum(b"bundle", body, str(key)) != stored:
        raise StoreCorrupt(f"the bundle {key!r} is damaged")
    return _restored(body, ConfigBundle, f"the bundle {key!r}")


def remark_of(row: Row) -> NumberedDiagnostic:
    """The remark in a row of `remark`."""
    number, worker, body, stored = row
    _verify(f"the remark {number}", stored, b"remark", body, number, _packed(worker))
    return NumberedDiagnostic(number, _restored(body, Diagnostic, f"the remark {number}"))


def runtime_event_of(row: Row) -> RuntimeEvent:
    """The event in a row of `runtime_event`."""
    number, kind, worker, told, unix_ms, stored = row
    key = (number, _packed(worker), _packed(told), unix_ms)
    _verify(f"the runtime event {number}", stored, b"runtime_event", str(kind).encode(), *key)
    return RuntimeEvent(
        number,
        kind,
        unix_ms,
        None if worker is None else worker_id(worker),
        told,
        None if told is None else cursor_of(told),
    )


def mark_of(row: Row) -> Mark:
    """The mark in a row of `mark`."""
    sequence, unix_ms, stored = row
    _verify(f"the mark {sequence}", stored, b"mark", b"", sequence, unix_ms)
    return Mark(sequence, unix_ms)


def deleted_of(row: Row) -> WorkerId:
    """The Worker in a row of `deleted`."""
    number, stored = row
    _verify(f"the row that says that {worker_id(number)} is deleted", stored, b"deleted", b"", number)
    return worker_id(number)


def _verify(name: str, stored: object, table: bytes, body: Any, *key: Any, tail: Any = b"") -> None:
    try:
        sound = crc32(tail, checksum(table, body, *key)) == stored
    except (TypeError, StructError):
        sound = False
    if not sound:
        raise StoreCorrupt(f"{name} is damaged")


def _restored(body: bytes, kind: type[T], name: str) -> T:
    try:
        return restore(body, kind)
    except ValueError as error:
        raise StoreCorrupt(f"{name} is nothing that this version knows") from error


def _named(number: object) -> str:
    return worker_id(number) if isinstance(number, int) else "an unknown Worker"
