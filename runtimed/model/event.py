"""The events of a Worker: a closed set of payloads, each with its name on the wire as `event`."""

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
    """A piece of a user's message."""

    kind = "text"

    content: str


@value
class UserMessage:
    """An input of a user was accepted."""

    event = "user_message"

    segments: tuple[TextSegment, ...]


@value
class SystemItem:
    """Anything else that a Worker has to say; `item` is a JSON object told apart by its `kind`."""

    event = "system_item"

    item: dict[str, Any]


@value
class InvokeStart:
    """The Worker was set going."""

    event = "invoke_start"

    kind: InvokeKind


@value
class TurnStart:
    """A turn of the run begins."""

    event = "turn_start"

    turn: int


@value
class TurnEnd:
    """A turn of the run is over."""

    event = "turn_end"

    turn: int
    result: TurnResult


@value
class LlmCallStart:
    """A model is being asked."""

    event = "llm_call_start"

    llm_call: int


@value
class LlmCallEnd:
    """The model has answered."""

    event = "llm_call_end"

    llm_call: int


@value
class TextDelta:
    """More of the text that the Worker is writing."""

    event = "text_delta"

    text: str


@value
class TextDone:
    """The whole text; it becomes an assistant entry of the transcript in the same step."""

    event = "text_done"

    text: str


@value
class ThinkingStart:
    """The Worker begins to think aloud."""

    event = "thinking_start"


@value
class ThinkingDelta:
    """More of what the Worker is thinking."""

    event = "thinking_delta"

    text: str


@value
class ThinkingDone:
    """The whole thought."""

    event = "thinking_done"

    text: str


@value
class ToolCallStart:
    """The Worker is about to use a tool."""

    event = "tool_call_start"

    id: str
    name: str


@value
class ToolCallArgsDelta:
    """More of the tool's arguments, as JSON text."""

    event = "tool_call_args_delta"

    id: str
    json: str


@value
class ToolCallDone:
    """The arguments are complete; the tool runs now."""

    event = "tool_call_done"

    id: str
    name: str
    arguments: str


@value
class ToolResult:
    """What the tool gave back; `exit_status` where the tool was a command."""

    event = "tool_result"

    id: str
    summary: str
    is_error: bool
    output: str | None = None
    exit_status: int | None = None


@value
class Usage:
    """Tokens that were used; `source` is who counted them."""

    event = "usage"

    input_tokens: int | None
    output_tokens: int | None
    cache_read_input_tokens: int | None = None
    source: UsageSource | None = None


@value
class RunEnd:
    """The run that an input started is over."""

    event = "run_end"

    result: RunResult


@value
class ErrorRaised:
    """The run failed; `reason` where the Worker's program is gone."""

    event = "error"

    code: ErrorCode
    message: str
    reason: LossReason | None = None


@value
class StatusChanged:
    """The Worker says what it is doing."""

    event = "status"

    status: ActivityStatus


@value
class Alert:
    """Something that a person should know.

    `timestamp_ms` is Unix time. The Runtime sets it to the time of the event, whatever it was before.
    """

    event = "alert"

    level: AlertLevel
    source: AlertSource
    message: str
    timestamp_ms: int


@value
class Shutdown:
    """The Worker was stopped or cancelled; nothing follows."""

    event = "shutdown"


@value
class TextBlock:
    """Text on its way; `truncated` where only the newest part of it is shown."""

    kind = "text"

    text: str
    finished: bool = False
    truncated: bool = False


@value
class ThinkingBlock:
    """A thought of the current run; `truncated` where only the newest part of it is shown."""

    kind = "thinking"

    text: str
    finished: bool = False
    truncated: bool = False


@value
class ToolCallBlock:
    """A tool call that has no result yet; `truncated` where only the newest part of its arguments is shown."""

    kind = "tool_call"

    id: str
    name: str
    args: str
    state: ToolCallState | None = None
    truncated: bool = False


InFlightBlock = TextBlock | ThinkingBlock | ToolCallBlock


@value
class InFlight:
    """Output that was streamed but is not in an entry yet."""

    blocks: tuple[InFlightBlock, ...]


@value
class Greeting:
    """What a Worker is, for somebody who has just come in; the contract keeps `cwd` empty."""

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
    """Everything before a cursor that an observer needs to understand what comes after it.

    `permissions` are those that wait for an answer, oldest first.
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
    """An event as an observer gets it; `timestamp_ms` is the Unix time at which it was decided."""

    cursor: Cursor
    event_id: str
    worker_id: WorkerId
    timestamp_ms: int
    payload: Payload
