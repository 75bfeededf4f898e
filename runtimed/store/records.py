"""The durable nouns: one descriptor for each table, with the conversion between values of the core and rows.

A Worker's request never changes and may be large, so it has a table of its own. Its state is written with each
Change. Statuses, activities and roles are stored as numbers.
"""

import functools
import logging
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, TypeVar

import attrs

from runtimed.core.state.activity import Activity
from runtimed.core.state.change import (
    EncodedEvent,
    Entry,
    Event,
    Gap,
    IdempotencyRecord,
    InputAttachments,
    Mark,
    NumberedDiagnostic,
    StateAt,
    StoredBundle,
    TokenRecord,
    Trim,
    Worker,
)
from runtimed.errors import StoreCorrupt
from runtimed.model.bundle import ConfigBundle, Declaration
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import ActivityStatus, InFlightBlock
from runtimed.model.execution import Execution, WorkerStatus
from runtimed.model.identity import WorkerId, cursor_of, worker_id
from runtimed.model.interaction import Attachment
from runtimed.model.permission import Permission
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.token import Token
from runtimed.model.transcript import Role
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.tables import CHECKSUM, Counter, Expiry, Row, Table, Tables, blob, integer, text
from runtimed.wire.converter import encode, encode_payload, restore

T = TypeVar("T")

ACTIVITIES: tuple[ActivityStatus, ...] = ("idle", "running", "paused")
STATUSES: tuple[WorkerStatus, ...] = ("running", "stopped", "cancelled")
ROLES: tuple[Role, ...] = ("user", "assistant", "system")
"""The meanings of the numbers in the columns `activity`, `status` and `role`. Add new ones at the end."""

AWAITS_RUN_END = len(ACTIVITIES)
"""The number for `idle` in the column `activity` of `state` while a `run_end` is missing."""

REQUEST_FIELDS = tuple(field.name for field in attrs.fields(CreateWorkerRequest))
"""The fields of DeclaredRequest that are those of the request."""

NO_TENANT = ""
"""What the columns `tenant` hold for no tenant."""

TENANT_END = "/"
"""What stands between a tenant and the id of one of its bundles in the key of the table `bundle`. No id has it."""

EXECUTION_FIELDS = tuple(field.name for field in attrs.fields(Execution))
"""The fields of TitledExecution that are those of the execution."""

_ACTIVITY = {name: code for code, name in enumerate(ACTIVITIES)}
_STATUS = {name: code for code, name in enumerate(STATUSES)}
_ROLE = {name: code for code, name in enumerate(ROLES)}

log = logging.getLogger(__name__)


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
    """The blocks and permission requests that were open right after an event, as the table `floor` keeps them."""

    blocks: tuple[InFlightBlock, ...] = ()
    permissions: tuple[Permission, ...] = ()


@value
class TitledExecution(Execution):
    """What the column `execution` holds: besides the execution, the title of the Worker's session."""

    title: str | None = None


@value
class DeclaredRequest(CreateWorkerRequest):
    """What the column `request` holds: besides the request, the declarations of its config bundle at that time."""

    declarations: tuple[Declaration, ...] = ()


@value
class TrimPoint:
    """The newest event of a Worker that is no longer retained, 0 for none, and the Worker's state after it."""

    worker_id: WorkerId
    sequence: int
    state_at: StateAt


def number_of(worker: WorkerId) -> int:
    """Return the number in a well-formed Worker id. The tables hold numbers."""
    return int(worker[7:], 16)


def skip_damaged(table: Table[Any, T], rows: Iterable[Row]) -> Iterator[T]:
    """Yield the values of the sound rows. Damaged rows are logged and left out."""
    for row in rows:
        try:
            yield table.read(row)
        except StoreCorrupt as error:
            log.error("left out a damaged row", extra={"reason": error.message})


def _named(number: object) -> str:
    return worker_id(number) if isinstance(number, int) else "an unknown Worker"


def _optional_number(worker: WorkerId | None) -> int | None:
    return None if worker is None else number_of(worker)


def _optional_id(number: int | None) -> WorkerId | None:
    return None if number is None else worker_id(number)


def _encode_worker(worker: Worker) -> Row:
    return number_of(worker.worker_id), _encode_request(worker), worker.created_at_ms, worker.tenant or NO_TENANT


def _encode_request(worker: Worker) -> bytes:
    if not worker.declarations:
        return encode(worker.request)
    fields = {name: getattr(worker.request, name) for name in REQUEST_FIELDS}
    return encode(DeclaredRequest(**fields, declarations=worker.declarations))


def _encode_state(worker: Worker) -> Row:
    return (
        number_of(worker.worker_id),
        _STATUS[worker.status],
        worker.transcript_len,
        worker.last_sequence,
        worker.since,
        AWAITS_RUN_END if worker.awaits_run_end else _ACTIVITY[worker.activity],
        worker.retained,
        _encode_execution(worker.execution, worker.title),
        encode(worker.queued) if worker.queued else b"",
        worker.last_event_ms,
    )


@functools.lru_cache(maxsize=256)
def _encode_execution(execution: Execution, title: str | None) -> bytes:
    return encode(TitledExecution(**{name: getattr(execution, name) for name in EXECUTION_FIELDS}, title=title))


def _encode_event(event: Event) -> Row:
    return (
        event.sequence,
        number_of(event.worker_id),
        event.previous,
        event.since,
        event.transcript_len,
        _ACTIVITY[event.activity],
        encode_payload(event.payload),
        event.timestamp_ms,
    )


def _decode_event(
    sequence: int,
    number: int,
    previous: int,
    since: int,
    transcript_len: int,
    activity: int,
    payload: bytes,
    timestamp_ms: int,
) -> StoredEvent:
    event = EncodedEvent(sequence, worker_id(number), timestamp_ms, payload)
    return StoredEvent(event, previous, since, transcript_len, ACTIVITIES[activity])


def _encode_trim(trim: Trim) -> Row:
    state_at, activity = trim.state_at, trim.state_at.activity
    in_flight = activity.in_flight()
    opened = Open(in_flight.blocks if in_flight else (), activity.permissions)
    return (
        number_of(trim.trim_range.worker_id),
        trim.trim_range.upto,
        state_at.transcript_len,
        _ACTIVITY[activity.status],
        encode(opened) if activity.open else b"",
        state_at.timestamp_ms,
    )


def _decode_trim_point(
    number: int, sequence: int, transcript_len: int, activity: int, body: bytes, timestamp_ms: int
) -> TrimPoint:
    opened = restore(body, Open) if body else Open()
    stood = Activity.of(ACTIVITIES[activity], opened.blocks, opened.permissions)
    return TrimPoint(worker_id(number), sequence, StateAt(transcript_len, stood, timestamp_ms))


def _encode_entry(entry: Entry) -> Row:
    return (
        entry.event,
        number_of(entry.worker_id),
        entry.sequence,
        _ROLE[entry.role],
        entry.content.encode(),
        entry.timestamp_ms,
    )


def _decode_entry(event: int, number: int, sequence: int, role: int, content: bytes, timestamp_ms: int) -> Entry:
    return Entry(worker_id(number), sequence, ROLES[role], content.decode(), event, timestamp_ms)


def _encode_bundle(stored: StoredBundle) -> Row:
    name = stored.bundle.metadata.id
    return name if stored.tenant is None else f"{stored.tenant}{TENANT_END}{name}", encode(stored.bundle)


def _decode_bundle(key: str, body: bytes) -> StoredBundle:
    tenant, _, _ = key.rpartition(TENANT_END)
    return StoredBundle(restore(body, ConfigBundle), tenant or None)


def _encode_runtime_event(event: RuntimeEvent) -> Row:
    return (
        event.id,
        event.kind,
        _optional_number(event.worker_id),
        event.event_id,
        event.timestamp_ms,
        event.tenant or NO_TENANT,
        event.by or "",
    )


def _decode_runtime_event(
    number: int, kind: Any, worker: int | None, event: int | None, timestamp_ms: int, tenant: str, actor: str
) -> RuntimeEvent:
    cursor = None if event is None else cursor_of(event)
    return RuntimeEvent(
        number, kind, timestamp_ms, _optional_id(worker), event, cursor, tenant or None, actor or None
    )


def _encode_idempotency(record: IdempotencyRecord) -> Row:
    return (
        record.number,
        number_of(record.worker_id),
        record.unix_ms,
        record.entry,
        record.event,
        int(record.queued),
        record.scope,
        record.body,
    )


def _decode_idempotency(
    number: int, worker: int, unix_ms: int, entry: int, event: int, queued: int, scope: bytes, body: bytes
) -> IdempotencyRecord:
    return IdempotencyRecord(number, scope, body, worker_id(worker), unix_ms, entry, event, bool(queued))


META: Table[tuple[str, object], tuple[str, str]] = Table(
    "meta",
    (text("key"), text("value"), CHECKSUM),
    encode=lambda item: (item[0], str(item[1])),
    decode=lambda key, found: (key, found),
    describe=lambda row: f"the meta row {row[0]!r}",
    replaces=True,
)
WORKERS: Table[Worker, tuple[int, bytes, int, str]] = Table(
    "worker",
    (
        integer("number"),
        blob("request"),
        CHECKSUM,
        integer("created_at_ms", default="0"),
        text("tenant", default="''"),
    ),
    encode=_encode_worker,
    decode=lambda number, request, created_at_ms, tenant: (number, request, created_at_ms, tenant),
    describe=lambda row: f"the row of {worker_id(row[0])}",
    replaces=True,
    indexes=("CREATE INDEX worker_tenant ON worker (tenant) WHERE tenant <> ''",),
    counter=Counter("worker_number", "number", "worker_number"),
    owner="number",
)
STATES: Table[Worker, Row] = Table(
    "state",
    (
        integer("worker"),
        integer("status"),
        integer("transcript_len"),
        integer("last_sequence"),
        integer("since"),
        integer("activity"),
        integer("retained"),
        blob("execution"),
        CHECKSUM,
        blob("waiting", default="x''"),
        integer("last_event_ms", default="0"),
    ),
    encode=_encode_state,
    decode=lambda *values: values,
    describe=lambda row: f"the row of {worker_id(row[0])}",
    replaces=True,
    owner="worker",
)
EVENTS: Table[Event, StoredEvent] = Table(
    "event",
    (
        integer("sequence"),
        integer("worker"),
        integer("previous"),
        integer("since"),
        integer("transcript_len"),
        integer("activity"),
        blob("payload"),
        CHECKSUM,
        integer("timestamp_ms", default="0"),
    ),
    encode=_encode_event,
    decode=_decode_event,
    describe=lambda row: f"the event {cursor_of(row[0])} of {_named(row[1])}",
    indexes=("CREATE INDEX event_worker ON event (worker)",),
    counter=Counter("head", "sequence", "head"),
)
TRIM_POINTS: Table[Trim, TrimPoint] = Table(
    "floor",
    (
        integer("worker"),
        integer("sequence"),
        integer("transcript_len"),
        integer("activity"),
        blob("in_flight"),
        CHECKSUM,
        integer("timestamp_ms", default="0"),
    ),
    encode=_encode_trim,
    decode=_decode_trim_point,
    describe=lambda row: f"the floor of {worker_id(row[0])}",
    part="trim",
    replaces=True,
    indexes=("CREATE INDEX floor_sequence ON floor (sequence)",),
    counter=Counter("head", "sequence", "head"),
    owner="worker",
)
ENTRIES: Table[Entry, Entry] = Table(
    "entry",
    (
        integer("event"),
        integer("worker"),
        integer("sequence"),
        integer("role"),
        blob("content"),
        CHECKSUM,
        integer("timestamp_ms", default="0"),
    ),
    encode=_encode_entry,
    decode=_decode_entry,
    describe=lambda row: f"the entry {row[2]} of {_named(row[1])}",
    indexes=("CREATE UNIQUE INDEX entry_worker ON entry (worker, sequence)",),
)
ATTACHMENTS: Table[InputAttachments, InputAttachments] = Table(
    "attachment",
    (integer("event"), integer("worker"), blob("body"), CHECKSUM),
    encode=lambda one: (one.event, number_of(one.worker_id), encode(one.attachments)),
    decode=lambda event, number, body: InputAttachments(
        worker_id(number), event, restore(body, tuple[Attachment, ...])
    ),
    describe=lambda row: f"the attachments of the event {cursor_of(row[0])} of {_named(row[1])}",
    part="attachments",
    indexes=("CREATE INDEX attachment_worker ON attachment (worker)",),
)
BUNDLES: Table[StoredBundle, StoredBundle] = Table(
    "bundle",
    (text("id"), blob("body"), CHECKSUM),
    encode=_encode_bundle,
    decode=_decode_bundle,
    describe=lambda row: f"the bundle {row[0]!r}",
    part="bundle",
    replaces=True,
    loaded_as="bundles",
)
DIAGNOSTICS: Table[NumberedDiagnostic, NumberedDiagnostic] = Table(
    "remark",
    (integer("number"), integer("worker", nullable=True), blob("body"), CHECKSUM),
    encode=lambda one: (one.number, _optional_number(one.diagnostic.worker_id), encode(one.diagnostic)),
    decode=lambda number, _, body: NumberedDiagnostic(number, restore(body, Diagnostic)),
    describe=lambda row: f"the diagnostic {row[0]}",
    part="diagnostics",
    counter=Counter("remark_number", "number", "diagnostic_number"),
    owner="worker",
    expiry=Expiry(attrgetter("diagnostics")),
    loaded_as="diagnostics",
)
RUNTIME_EVENTS: Table[RuntimeEvent, RuntimeEvent] = Table(
    "runtime_event",
    (
        integer("id"),
        text("kind"),
        integer("worker", nullable=True),
        integer("event", nullable=True),
        integer("unix_ms"),
        CHECKSUM,
        text("tenant", default="''"),
        text("actor", default="''"),
    ),
    encode=_encode_runtime_event,
    decode=_decode_runtime_event,
    describe=lambda row: f"the runtime event {row[0]}",
    part="runtime_events",
    indexes=("CREATE INDEX runtime_event_tenant ON runtime_event (tenant) WHERE tenant <> ''",),
    counter=Counter("runtime_event_id", "id", "runtime_event_id"),
    expiry=Expiry(attrgetter("runtime_events_left"), keeps_newest=True),
)
MARKS: Table[Mark, Mark] = Table(
    "mark",
    (integer("sequence"), integer("unix_ms"), CHECKSUM),
    encode=lambda mark: (mark.sequence, mark.unix_ms),
    decode=Mark,
    describe=lambda row: f"the mark {row[0]}",
    part="mark",
    replaces=True,
    expiry=Expiry(attrgetter("marks")),
    loaded_as="marks",
)
DELETED: Table[WorkerId, WorkerId] = Table(
    "deleted",
    (integer("worker"), CHECKSUM),
    encode=lambda worker: (number_of(worker),),
    decode=worker_id,
    describe=lambda row: f"the row that says that {worker_id(row[0])} is deleted",
    part="deleted",
    replaces=True,
    loaded_as="deleted",
)

IDEMPOTENCY: Table[IdempotencyRecord, IdempotencyRecord] = Table(
    "idempotency",
    (
        integer("number"),
        integer("worker"),
        integer("unix_ms"),
        integer("entry"),
        integer("event"),
        integer("queued"),
        blob("scope"),
        blob("body"),
        CHECKSUM,
    ),
    encode=_encode_idempotency,
    decode=_decode_idempotency,
    describe=lambda row: f"the idempotency key {row[0]}",
    part="idempotency",
    expiry=Expiry(attrgetter("idempotency")),
    loaded_as="idempotency",
)

TOKENS: Table[TokenRecord, TokenRecord] = Table(
    "token",
    (text("name"), blob("digest"), blob("body"), CHECKSUM),
    encode=lambda record: (record.token.name, record.digest, encode(record.token)),
    decode=lambda _, digest, body: TokenRecord(restore(body, Token), digest),
    describe=lambda row: f"the token {row[0]!r}",
    part="token",
    replaces=True,
    loaded_as="tokens",
)

GAPS: Table[Gap, Gap] = Table(
    "gap",
    (integer("head"), integer("raised_to"), integer("unix_ms"), CHECKSUM),
    encode=lambda gap: (gap.head, gap.raised_to, gap.unix_ms),
    decode=Gap,
    describe=lambda row: f"the gap after {cursor_of(row[0])}",
    replaces=True,
    loaded_as="gaps",
    is_essential=True,
)

TABLES = Tables(
    META,
    WORKERS,
    STATES,
    EVENTS,
    TRIM_POINTS,
    ENTRIES,
    ATTACHMENTS,
    BUNDLES,
    DIAGNOSTICS,
    RUNTIME_EVENTS,
    MARKS,
    DELETED,
    IDEMPOTENCY,
    TOKENS,
    GAPS,
)
"""All tables, in the order of their creation. To store a new noun, add its descriptor here."""
