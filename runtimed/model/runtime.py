"""The Runtime: its summary, limits and events, and the check of its store."""

from typing import Literal

from runtimed.model.identity import Cursor, RuntimeId, WorkerId
from runtimed.model.profile import Sandbox
from runtimed.model.value import value

RuntimeStatus = Literal["running", "stopped"]
RuntimeBackend = str
"""The name of the store in the v1 contract: `memory`, or `fs_store` for every durable one."""

StoreKind = str
"""The scheme of the store's URL."""

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
    """The largest pages that the Runtime returns, in items."""

    max_transcript_projection_items: int
    max_event_batch_items: int


@value
class RuntimeSummary:
    """The identity of the Runtime, and how much it hosts.

    Attributes:
        backend: `memory`, or `fs_store` for every durable store (contract).
        store: The kind of store.
        sandbox: How Workers are confined, unless their profile says otherwise.
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
    sandbox: Sandbox | None = None


@value
class RuntimeEvent:
    """An entry in the history of the Runtime.

    Attributes:
        id: Counts from 1.
        timestamp_ms: Unix time in milliseconds.
        event_id: The sequence of the matching event in the feed, if there is one.
        cursor: The same as a cursor.
        tenant: The tenant of the Worker, if it has one.
        by: The client that asked for it, as `token:NAME`. The Runtime itself has none.
    """

    id: int
    kind: RuntimeEventKind
    timestamp_ms: int
    worker_id: WorkerId | None = None
    event_id: int | None = None
    cursor: Cursor | None = None
    tenant: str | None = None
    by: str | None = None


@value
class Drain:
    """A Runtime that is draining.

    Attributes:
        runs: How many runs go on.
        deadline_ms: When the daemon ends, whether runs are left or not. Unix time in milliseconds.
    """

    runs: int
    deadline_ms: int


@value
class Finding:
    """A problem in a store.

    Attributes:
        problem: Describes the problem for people.
        worker_id: The Worker that it belongs to, if known.
    """

    problem: str
    worker_id: WorkerId | None = None


@value
class StoreCheck:
    """The result of a check of the whole store.

    Attributes:
        workers: How many Workers were read.
        entries: How many transcript entries were read.
        events: How many events were read.
        findings: The problems, at most 100.
    """

    workers: int
    entries: int
    events: int
    findings: tuple[Finding, ...]


MAX_FINDINGS = 100
"""The most problems that a check reports."""
