"""The activity of a Worker: its status, the output in flight, and the pending permission requests."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import attrs

from runtimed.core.state.runtime_items import (
    InputStarted,
    PermissionRequested,
    PermissionResolved,
    SystemInput,
    parse,
)
from runtimed.model.event import (
    ActivityStatus,
    ErrorRaised,
    InFlight,
    InFlightBlock,
    InvokeStart,
    Payload,
    RunEnd,
    Shutdown,
    StatusChanged,
    SystemItem,
    TextBlock,
    TextDelta,
    TextDone,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    ToolCallArgsDelta,
    ToolCallBlock,
    ToolCallDone,
    ToolCallStart,
    ToolCallState,
    ToolResult,
    UserMessage,
)
from runtimed.model.permission import Permission
from runtimed.model.value import value

MAX_BLOCKS = 256

MAX_OPEN_TEXT = 8 * 2**20
"""The most characters of text, thought and arguments in flight, unless a limit is set."""


@attrs.frozen(eq=False, repr=False)
class Pieces:
    """Growing text as a chain of pieces, so that a long text is not copied for each new piece."""

    last: str = ""
    before: "Pieces | None" = None

    def plus(self, piece: str) -> "Pieces":
        return Pieces(piece, self)

    def __str__(self) -> str:
        found = []
        link: Pieces | None = self
        while link is not None:
            found.append(link.last)
            link = link.before
        return "".join(reversed(found))

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, Pieces) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


@value
class Prose:
    """A text or a thought that is being streamed."""

    kind: Literal["text", "thinking"]
    pieces: Pieces = Pieces()
    finished: bool = False

    def view(self) -> InFlightBlock:
        make = TextBlock if self.kind == "text" else ThinkingBlock
        return make(str(self.pieces), self.finished)

    def closing(self, _why: str) -> Iterator[Payload]:
        if not self.finished:
            yield TextDone(str(self.pieces)) if self.kind == "text" else ThinkingDone(str(self.pieces))


@value
class ToolCall:
    """A tool call without a result."""

    id: str
    name: str
    args: Pieces = Pieces()
    state: ToolCallState = "pending"

    def view(self) -> InFlightBlock:
        return ToolCallBlock(self.id, self.name, str(self.args), self.state)

    def closing(self, why: str) -> Iterator[Payload]:
        if self.state != "done":
            yield ToolCallDone(self.id, self.name, str(self.args) or "{}")
        yield ToolResult(self.id, why, is_error=True)


Block = Prose | ToolCall


@value
class Activity:
    """The state that the events of a Worker add up to.

    A text stays until `text_done`, a thought until the run ends, a tool call until its result, a permission request
    until it is resolved. The end of a run clears everything. At most MAX_BLOCKS blocks are kept; the oldest go first.
    """

    status: ActivityStatus = "idle"
    blocks: tuple[Block, ...] = ()
    permissions: tuple[Permission, ...] = ()

    @classmethod
    def of(
        cls, status: ActivityStatus, blocks: Iterable[InFlightBlock], permissions: tuple[Permission, ...]
    ) -> "Activity":
        """Return the activity that `in_flight` shows as these blocks."""
        return cls(status, tuple(map(_block, blocks)), permissions)

    @property
    def open(self) -> bool:
        """Whether something is in flight or pending."""
        return bool(self.blocks or self.permissions)

    @property
    def quiet(self) -> bool:
        """Whether the Worker is idle with nothing in flight or pending."""
        return self.status == "idle" and not self.open

    def after(self, payload: Payload) -> "Activity":
        """Return the activity after one more event."""
        step = _STEPS.get(type(payload))
        return self if step is None else step(self, payload)

    def in_flight(self) -> InFlight | None:
        """Return the output in flight as the contract shows it, or None."""
        return InFlight(tuple(block.view() for block in self.blocks)) if self.blocks else None

    def closing(self, why: str) -> Iterator[Payload]:
        """Yield the events that end whatever is in flight: texts and thoughts first, then tool calls.

        `why` becomes the result of tool calls that have none.
        """
        for block in sorted(self.blocks, key=lambda block: isinstance(block, ToolCall)):
            yield from block.closing(why)


def _block(view: InFlightBlock) -> Block:
    if isinstance(view, ToolCallBlock):
        return ToolCall(view.id, view.name, Pieces(view.args), view.state or "pending")
    return Prose("text" if isinstance(view, TextBlock) else "thinking", Pieces(view.text), view.finished)


def _added(activity: Activity, block: Block) -> Activity:
    return Activity(activity.status, (*activity.blocks, block)[-MAX_BLOCKS:], activity.permissions)


def _replaced(activity: Activity, old: Block, new: Block | None) -> Activity:
    blocks = (new if block is old else block for block in activity.blocks)
    return Activity(activity.status, tuple(block for block in blocks if block is not None), activity.permissions)


def _open_prose(activity: Activity, kind: str) -> Prose | None:
    for block in reversed(activity.blocks):
        if isinstance(block, Prose) and block.kind == kind and not block.finished:
            return block
    return None


def _open_call(activity: Activity, call_id: str) -> ToolCall | None:
    for block in reversed(activity.blocks):
        if isinstance(block, ToolCall) and block.id == call_id:
            return block
    return None


def _written(activity: Activity, kind: Literal["text", "thinking"], text: str) -> Activity:
    block = _open_prose(activity, kind)
    if block is None:
        return _added(activity, Prose(kind, Pieces(text)))
    return _replaced(activity, block, Prose(kind, block.pieces.plus(text)))


def _run_started(activity: Activity, _payload: UserMessage | InvokeStart) -> Activity:
    return Activity("running", activity.blocks, activity.permissions)


def _system_item(activity: Activity, payload: SystemItem) -> Activity:
    match parse(payload):
        case SystemInput() | InputStarted():
            return Activity("running", activity.blocks, activity.permissions)
        case PermissionRequested(permission):
            return Activity(activity.status, activity.blocks, (*activity.permissions, permission))
        case PermissionResolved(resolution):
            left = (one for one in activity.permissions if one.request_id != resolution.request_id)
            return Activity(activity.status, activity.blocks, tuple(left))
    return activity


def _run_ended(_activity: Activity, payload: RunEnd | ErrorRaised | Shutdown) -> Activity:
    return Activity("paused" if isinstance(payload, RunEnd) and payload.result == "paused" else "idle")


def _status(activity: Activity, payload: StatusChanged) -> Activity:
    return Activity(payload.status, activity.blocks, activity.permissions)


def _text(activity: Activity, payload: TextDelta) -> Activity:
    return _written(activity, "text", payload.text)


def _text_done(activity: Activity, _payload: TextDone) -> Activity:
    block = _open_prose(activity, "text")
    return activity if block is None else _replaced(activity, block, None)


def _thinking_start(activity: Activity, _payload: ThinkingStart) -> Activity:
    return _added(activity, Prose("thinking"))


def _thinking(activity: Activity, payload: ThinkingDelta) -> Activity:
    return _written(activity, "thinking", payload.text)


def _thinking_done(activity: Activity, payload: ThinkingDone) -> Activity:
    thought = Prose("thinking", Pieces(payload.text), finished=True)
    block = _open_prose(activity, "thinking")
    return _added(activity, thought) if block is None else _replaced(activity, block, thought)


def _call_start(activity: Activity, payload: ToolCallStart) -> Activity:
    return _added(activity, ToolCall(payload.id, payload.name))


def _call_args(activity: Activity, payload: ToolCallArgsDelta) -> Activity:
    call = _open_call(activity, payload.id)
    if call is None:
        return activity
    grown = ToolCall(call.id, call.name, call.args.plus(payload.json), "streaming_args")
    return _replaced(activity, call, grown)


def _call_done(activity: Activity, payload: ToolCallDone) -> Activity:
    done = ToolCall(payload.id, payload.name, Pieces(payload.arguments), "done")
    call = _open_call(activity, payload.id)
    return _added(activity, done) if call is None else _replaced(activity, call, done)


def _call_result(activity: Activity, payload: ToolResult) -> Activity:
    call = _open_call(activity, payload.id)
    return activity if call is None else _replaced(activity, call, None)


_STEPS: dict[type, Callable[[Activity, Any], Activity]] = {
    UserMessage: _run_started,
    InvokeStart: _run_started,
    SystemItem: _system_item,
    RunEnd: _run_ended,
    ErrorRaised: _run_ended,
    Shutdown: _run_ended,
    StatusChanged: _status,
    TextDelta: _text,
    TextDone: _text_done,
    ThinkingStart: _thinking_start,
    ThinkingDelta: _thinking,
    ThinkingDone: _thinking_done,
    ToolCallStart: _call_start,
    ToolCallArgsDelta: _call_args,
    ToolCallDone: _call_done,
    ToolResult: _call_result,
}
