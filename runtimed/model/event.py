"""The events of a Worker: a closed set of payloads. The class attribute `event` is the name of a payload in JSON."""

from typing import Any, Literal

from runtimed.model.execution import LossReason
from runtimed.model.identity import Cursor, WorkerId
from runtimed.model.permission import Permission
from runtimed.model.transcript import TranscriptItem
from runtimed.model.value import value

InvokeKind = Literal["user_send", "notify", "worker_event", "system_reminder", "wakeup"]
TurnResult = Literal["finished", "paused"]
RunResult = Literal["finished", "paused", "limit_reached", "rolled_back"]
ErrorCode = Literal[
    "already_running",
    "not_running",
    "not_paused",
    "provider_error",
    "tool_error",
    "invalid_request",
    "internal",
]
ActivityStatus = Literal["idle", "running", "paused"]
AlertLevel = Literal["warn", "error"]
AlertSource = Literal["worker", "engine", "compactor", "agents_md"]
ToolCallState = Literal["pending", "streaming_args", "done"]
UsageSource = Literal["agent", "provider"]


@value
class TextSegment:
    """A text within a user's message."""

    kind = "text"

    content: str


@value
class UserMessage:
    """An input of a user was accepted."""

    event = "user_message"

    segments: tuple[TextSegment, ...]


@value
class SystemItem:
    """Any other event of a Worker.

    Attributes:
        item: A JSON object. Its field `kind` says what it is.
    """

    event = "system_item"

    item: dict[str, Any]


@value
class InvokeStart:
    """A run of the Worker begins."""

    event = "invoke_start"

    kind: InvokeKind


@value
class TurnStart:
    """A turn of the run begins."""

    event = "turn_start"

    turn: int


@value
class TurnEnd:
    """A turn of the run ends."""

    event = "turn_end"

    turn: int
    result: TurnResult


@value
class LlmCallStart:
    """A request to a model begins."""

    event = "llm_call_start"

    llm_call: int


@value
class LlmCallEnd:
    """The model has answered the request."""

    event = "llm_call_end"

    llm_call: int


@value
class TextDelta:
    """The next piece of the text that the Worker is writing."""

    event = "text_delta"

    text: str


@value
class TextDone:
    """The whole text. It is added to the transcript as an assistant entry in the same step."""

    event = "text_done"

    text: str


@value
class ThinkingStart:
    """A thought of the Worker begins."""

    event = "thinking_start"


@value
class ThinkingDelta:
    """The next piece of a thought."""

    event = "thinking_delta"

    text: str


@value
class ThinkingDone:
    """The whole thought."""

    event = "thinking_done"

    text: str


@value
class ToolCallStart:
    """A tool call of the Worker begins."""

    event = "tool_call_start"

    id: str
    name: str


@value
class ToolCallArgsDelta:
    """The next piece of the tool's arguments, as JSON text."""

    event = "tool_call_args_delta"

    id: str
    json: str


@value
class ToolCallDone:
    """The arguments are complete, and the tool runs."""

    event = "tool_call_done"

    id: str
    name: str
    arguments: str


@value
class ToolResult:
    """The result of a tool call.

    Attributes:
        exit_status: The exit status, if the tool was a command.
    """

    event = "tool_result"

    id: str
    summary: str
    is_error: bool
    output: str | None = None
    exit_status: int | None = None


@value
class Cost:
    """What a session has cost so far.

    Attributes:
        currency: A code of ISO 4217, such as `USD`.
    """

    amount: float
    currency: str


@value
class Usage:
    """The tokens that were used.

    Attributes:
        source: Who counted them.
        context_tokens: The tokens in the context of the session now.
        context_window: The tokens that fit into it.
        cost: What the session has cost in all its runs.
    """

    event = "usage"

    input_tokens: int | None
    output_tokens: int | None
    cache_read_input_tokens: int | None = None
    source: UsageSource | None = None
    context_tokens: int | None = None
    context_window: int | None = None
    cost: Cost | None = None


@value
class RunEnd:
    """A run of the Worker ends."""

    event = "run_end"

    result: RunResult


@value
class ErrorRaised:
    """The run failed.

    Attributes:
        reason: Why the Worker's program or run was lost, or None if it was not.
    """

    event = "error"

    code: ErrorCode
    message: str
    reason: LossReason | None = None


@value
class StatusChanged:
    """The Worker reports its activity."""

    event = "status"

    status: ActivityStatus


@value
class Alert:
    """A warning or an error for people.

    Attributes:
        timestamp_ms: Unix time in milliseconds. The Runtime sets it to the time of the event.
    """

    event = "alert"

    level: AlertLevel
    source: AlertSource
    message: str
    timestamp_ms: int


@value
class Shutdown:
    """The Worker was stopped or cancelled. It is its last event."""

    event = "shutdown"


@value
class TextBlock:
    """A text that is being written.

    Attributes:
        truncated: Only the newest part of the text is shown.
    """

    kind = "text"

    text: str
    finished: bool = False
    truncated: bool = False


@value
class ThinkingBlock:
    """A thought of the current run.

    Attributes:
        truncated: Only the newest part of the thought is shown.
    """

    kind = "thinking"

    text: str
    finished: bool = False
    truncated: bool = False


@value
class ToolCallBlock:
    """A tool call that has no result yet.

    Attributes:
        args: The arguments so far, as JSON text.
        truncated: Only the newest part of the arguments is shown.
    """

    kind = "tool_call"

    id: str
    name: str
    args: str
    state: ToolCallState | None = None
    truncated: bool = False


InFlightBlock = TextBlock | ThinkingBlock | ToolCallBlock


@value
class InFlight:
    """Output that was streamed but is not in a transcript entry yet."""

    blocks: tuple[InFlightBlock, ...]


@value
class Greeting:
    """The description of a Worker for an observer that has just joined.

    Attributes:
        cwd: Always empty (contract).
    """

    worker_name: str
    cwd: str
    provider: str
    model: str
    scope_summary: str
    tools: tuple[str, ...]
    context_window: int
    context_tokens: int


@value
class Snapshot:
    """The state of a Worker at a cursor. An observer needs no earlier event to understand later ones.

    Attributes:
        permissions: The pending permission requests, oldest first.
    """

    event = "snapshot"

    entries: tuple[TranscriptItem, ...]
    greeting: Greeting
    status: ActivityStatus
    in_flight: InFlight | None = None
    permissions: tuple[Permission, ...] = ()


Payload = (
    UserMessage
    | SystemItem
    | InvokeStart
    | TurnStart
    | TurnEnd
    | LlmCallStart
    | LlmCallEnd
    | TextDelta
    | TextDone
    | ThinkingStart
    | ThinkingDelta
    | ThinkingDone
    | ToolCallStart
    | ToolCallArgsDelta
    | ToolCallDone
    | ToolResult
    | Usage
    | RunEnd
    | ErrorRaised
    | Snapshot
    | StatusChanged
    | Alert
    | Shutdown
)


@value
class EventEnvelope:
    """An event as observers receive it.

    Attributes:
        timestamp_ms: The time at which it was decided, as Unix time in milliseconds.
    """

    cursor: Cursor
    event_id: str
    worker_id: WorkerId
    timestamp_ms: int
    payload: Payload
