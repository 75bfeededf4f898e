"""A Worker: what it was created for, and what is to be seen of it."""

from typing import Literal

import attrs

from runtimed.model.execution import Execution
from runtimed.model.identity import Cursor, RuntimeId, WorkerId, WorkerRef
from runtimed.model.value import value

WorkerStatus = Literal["running", "stopped", "cancelled"]


@value
class AssistantIntent:
    """A Worker to talk with."""

    kind = "assistant"

    purpose: str | None = None


@value
class TaskIntent:
    """A Worker with something to get done."""

    kind = "task"

    objective: str


@value
class RoleIntent:
    """A Worker that plays a part beside others."""

    kind = "role"

    role: str
    purpose: str | None = None


Intent = AssistantIntent | TaskIntent | RoleIntent


@value
class RuntimeDefaultProfile:
    """Whatever the host's configuration calls its default."""

    kind = "runtime_default"


@value
class BuiltinProfile:
    """A profile that ships with the daemon; the value keeps its `builtin:` prefix."""

    kind = "builtin"

    value: str


@value
class NamedProfile:
    """A profile that a config bundle offers and the host's configuration explains."""

    kind = "named"

    value: str


ProfileSelector = RuntimeDefaultProfile | BuiltinProfile | NamedProfile


@value
class BundleReference:
    """One exact version of a config bundle."""

    id: str
    digest: str


@value
class CapabilityRequest:
    """Something the Worker asks to be allowed."""

    name: str
    reason: str | None = None


@value
class NamedReference:
    """An opaque reference to a workspace or a mount, under the name the Worker knows it by."""

    name: str
    reference: str


@value
class CreateWorkerRequest:
    """What a Worker is created from; it never changes afterwards.

    `session_config` goes before that of the profile, key by key; for agents.
    """

    intent: Intent = AssistantIntent()
    profile: ProfileSelector = RuntimeDefaultProfile()
    config_bundle: BundleReference | None = None
    requested_capabilities: tuple[CapabilityRequest, ...] = ()
    workspace_refs: tuple[NamedReference, ...] = ()
    mount_refs: tuple[NamedReference, ...] = ()
    name: str | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    session_config: dict[str, str] = attrs.field(factory=dict)


@value
class WorkerDetail:
    """All that a client may know of a Worker.

    `last_event_id` is the sequence of the newest event, 0 for none; `last_cursor` is the same as a cursor.
    `created_at_ms` is Unix time. `oldest_cursor` is set once events are no longer retained: what came behind it still
    is. `queued_inputs` counts those that wait their turn.
    """

    worker_ref: WorkerRef
    runtime_id: RuntimeId
    worker_id: WorkerId
    status: WorkerStatus
    execution: Execution
    intent: Intent
    profile: ProfileSelector
    transcript_len: int
    last_event_id: int
    last_cursor: Cursor
    created_at_ms: int
    config_bundle: BundleReference | None = None
    requested_capabilities: tuple[CapabilityRequest, ...] = ()
    workspace_refs: tuple[NamedReference, ...] = ()
    mount_refs: tuple[NamedReference, ...] = ()
    name: str | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    oldest_cursor: Cursor | None = None
    queued_inputs: int = 0


@value
class WorkerSummary:
    """A Worker as a row of a list; the fields mean what they mean in WorkerDetail."""

    worker_ref: WorkerRef
    runtime_id: RuntimeId
    worker_id: WorkerId
    status: WorkerStatus
    execution: Execution
    intent: Intent
    profile: ProfileSelector
    requested_capability_count: int
    has_config_bundle: bool
    transcript_len: int
    last_event_id: int
    last_cursor: Cursor
    created_at_ms: int
    name: str | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
