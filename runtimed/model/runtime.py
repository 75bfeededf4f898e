"""The Runtime as a whole."""

from typing import Literal

import attrs

from runtimed.model.identity import RuntimeId

RuntimeStatus = Literal["running", "stopped"]
RuntimeBackend = Literal["memory", "fs_store"]


@attrs.frozen
class RuntimeLimits:
    """The largest pages that the Runtime gives out, in items."""

    max_transcript_projection_items: int
    max_event_batch_items: int


@attrs.frozen
class RuntimeSummary:
    """Who the Runtime is and how much it hosts."""

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
