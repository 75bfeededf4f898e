"""The Runtime as a whole."""

from typing import Literal

from runtimed.model.identity import Cursor, RuntimeId, WorkerId
from runtimed.model.value import value

RuntimeStatus = Literal["running", "stopped"]
RuntimeBackend = Literal["memory", "fs_store"]
StoreKind = Literal["memory", "fs"]
RuntimeEventKind = Literal[
    "runtime_started",
    "runtime_stopped",
    "worker_created",
    "worker_input_accepted",
    "worker_stopped",
    "worker_cancelled",
]


@value
class RuntimeLimits:
    """The largest pages that the Runtime gives out, in items."""

    max_transcript_projection_items: int
    max_event_batch_items: int


@value
class RuntimeSummary:
    """Who the Runtime is and how much it hosts.

    `backend` is one of a closed set, in which every durable store is `fs_store`; `store` says which store it is.
    """

    runtime_id: RuntimeId
    display_name: str | None
    backend: RuntimeBackend
    status: RuntimeStatus
    worker_count: int
    active_worker_count: int
    stopped_worker_count: int
    cancelled_worker_count: int
    diagnostic_count: int
    limits: RuntimeLimits
    store: StoreKind | None = None


@value
class RuntimeEvent:
    """Something in the life of the Runtime; ids count from 1.

    `event_id` is the sequence of the event in the feed that told of it, `cursor` the same as a cursor.
    """

    id: int
    kind: RuntimeEventKind
    timestamp_ms: int
    worker_id: WorkerId | None = None
    event_id: int | None = None
    cursor: Cursor | None = None


@value
class Finding:
    """Something that is wrong in a store, in plain words, and the Worker that it belongs to where it is known."""

    problem: str
    worker_id: WorkerId | None = None


@value
class StoreCheck:
    """What a check of everything in a store has read, and what it found, at most MAX_FINDINGS of it."""

    workers: int
    entries: int
    events: int
    findings: tuple[Finding, ...]


MAX_FINDINGS = 100
"""How much a check tells; past that it says no more."""
