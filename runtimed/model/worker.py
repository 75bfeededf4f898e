"""Workers: the request that creates one, and what clients see of it."""

import attrs

from runtimed.model.execution import Execution, WorkerStatus
from runtimed.model.identity import Cursor, RuntimeId, WorkerId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.mcp_server import McpServer
from runtimed.model.value import value


@value
class AssistantIntent:
    """The Worker is for conversation."""

    kind = "assistant"

    purpose: str | None = None


@value
class TaskIntent:
    """The Worker has a task."""

    kind = "task"

    objective: str


@value
class RoleIntent:
    """The Worker has a role among other Workers."""

    kind = "role"

    role: str
    purpose: str | None = None


Intent = AssistantIntent | TaskIntent | RoleIntent


@value
class RuntimeDefaultProfile:
    """Selects the default profile of the host's configuration."""

    kind = "runtime_default"


@value
class BuiltinProfile:
    """Selects a profile that ships with the daemon.

    Attributes:
        value: The name, with its prefix `builtin:`.
    """

    kind = "builtin"

    value: str


@value
class NamedProfile:
    """Selects a profile that a config bundle offers and the host's configuration defines."""

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
    """A capability that is requested for the Worker."""

    name: str
    reason: str | None = None


@value
class NamedReference:
    """An opaque reference to a workspace or a mount, and its name for the Worker."""

    name: str
    reference: str


@value
class CreateWorkerRequest:
    """The request that creates a Worker. It never changes afterwards.

    Attributes:
        session_config: Session options for an agent. Each key overrides the same key of the profile.
        mcp_servers: MCP servers for an agent, besides those of the profile. No answer shows them.
        initial_input: The first input. It is given once the Worker is spawned, and is not kept with the request.
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
    mcp_servers: tuple[McpServer, ...] = ()
    initial_input: WorkerInput | None = None


@value
class SlashCommand:
    """A command that a Worker's agent offers: an input that begins with `/` and its name gives it.

    Attributes:
        description: What it does.
        hint: What may follow the name.
    """

    name: str
    description: str = ""
    hint: str | None = None


@value
class WorkerDetail:
    """Everything that clients can see of a Worker.

    Attributes:
        last_event_id: The sequence of the newest event, 0 for none.
        last_cursor: The same as a cursor.
        created_at_ms: Unix time in milliseconds.
        oldest_cursor: The cursor after which events are retained, or None if all are.
        queued_inputs: How many inputs wait for their turn.
        title: What the Worker's agent calls its session.
        commands: What the Worker's agent offers while it runs.
        tenant: The tenant that it belongs to, if any.
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
    title: str | None = None
    commands: tuple[SlashCommand, ...] = ()
    tenant: str | None = None


@value
class WorkerSummary:
    """A Worker in a list of Workers. The fields mean the same as in WorkerDetail."""

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
    title: str | None = None
    tenant: str | None = None
