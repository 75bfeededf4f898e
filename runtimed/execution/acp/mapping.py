"""What an agent says, as events: session updates, the tool calls of permission requests, and how a run ended.

Nothing here is awaited and nothing is known of connections: raw objects go in, payloads come out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson

from runtimed.core.sink import RESERVED_ITEMS
from runtimed.execution.acp.calls import UNTOLD, Calls
from runtimed.execution.acp.content import told_text
from runtimed.execution.acp.usage import find_usage
from runtimed.execution.complaints import alert
from runtimed.execution.output import Delta, Done, OpenText
from runtimed.model.event import (
    ErrorRaised,
    Payload,
    RunEnd,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
    Usage,
)
from runtimed.wire.json import check
from runtimed.wire.problems import FieldProblem

MAX_ITEM = 1 << 20
"""Bytes of JSON that are kept of an update that becomes a system_item."""

MAX_KIND = 100

CANCELLED = "cancelled"
_Kind = Literal["text", "thinking"]
_PROSE: Mapping[str, _Kind] = {"agent_message_chunk": "text", "agent_thought_chunk": "thinking"}
_EVENTS: Mapping[_Kind, tuple[type[Delta], type[Done]]] = {
    "text": (TextDelta, TextDone),
    "thinking": (ThinkingDelta, ThinkingDone),
}
_CALLS = ("tool_call", "tool_call_update")


class Narration:
    """All that one agent says, from one run to the next.

    At most one text or thought is open; it is done when the other kind, a new message or a tool call follows, when
    it grows too long, or when the run ends. Tool calls are closed with the run, whatever the agent leaves out.
    """

    def __init__(self) -> None:
        self._calls = Calls()
        self._texts = {kind: OpenText(*events) for kind, events in _EVENTS.items()}
        self._open: _Kind | None = None
        self._message: object = None

    def live_in(self, home: str) -> None:
        """From here on paths below this one are told from there."""
        self._calls.home = home

    def update(self, told: Mapping[str, Any]) -> Iterator[Payload]:
        """The events of a session update: the object with `sessionUpdate`."""
        kind = told_text(told.get("sessionUpdate"), "unknown")
        if kind in _PROSE:
            yield from self._chunk(_PROSE[kind], told)
        elif kind in _CALLS and _is_id(told.get("toolCallId")):
            yield from self.close_prose()
            yield from self._calls.sight(told, new=kind == "tool_call")
        else:
            yield _item(kind, told)
        if usage := _usage(kind, told):
            yield usage

    def permission(self, call: Mapping[str, Any]) -> Iterator[Payload]:
        """The events that show the tool call of a permission request."""
        yield from self.close_prose()
        if _is_id(call.get("toolCallId")):
            yield from self._calls.sight(call, new=True)
            yield from self._calls.settle(call["toolCallId"])

    def settle(self) -> Iterator[Payload]:
        """What is held back of open tool calls: somebody else is going to close them."""
        yield from self._calls.settle()

    def shown_as(self, call_id: object) -> str | None:
        """The id that events of this open tool call bear."""
        return self._calls.shown_as(call_id) if isinstance(call_id, str) else None

    def arguments(self, call_id: object) -> str:
        """What was told of the arguments of this open tool call."""
        return self._calls.arguments(call_id) if isinstance(call_id, str) else ""

    def deny(self, call_id: object, why: str) -> None:
        """A tool is not going to run: `why` is the summary where the agent tells no result."""
        if isinstance(call_id, str):
            self._calls.rule(call_id, why)

    def begin(self) -> Iterator[Payload]:
        """A run begins: what was left open before it is closed."""
        yield from self.close(UNTOLD)
        self._calls.next_run()

    def end(self, response: Mapping[str, Any], *, interrupted: bool = False) -> Iterator[Payload]:
        """The run ended in this response to the prompt: close what is open, then the usage and how it ended.

        `interrupted`: the agent was told to end it; one that says so by itself has ended it as it sees fit.
        """
        reason = response.get("stopReason")
        yield from self.close(CANCELLED if reason == CANCELLED else UNTOLD)
        if usage := find_usage(response.get("usage")) or find_usage(response.get("_meta")):
            yield usage
        yield from _ending(reason, interrupted)

    def fail(self, message: str) -> Iterator[Payload]:
        """The prompt was answered with an error: close what is open, then say so."""
        yield from self.close(UNTOLD)
        yield ErrorRaised("provider_error", message)
        yield RunEnd("rolled_back")

    def close(self, why: str) -> Iterator[Payload]:
        """End what is open; `why` is the summary of tool calls without a result."""
        yield from self.close_prose()
        yield from self._calls.close(why)

    def close_prose(self) -> Iterator[Payload]:
        """End the open text or thought."""
        if self._open is not None:
            yield from self._texts[self._open].close()
        self._open = None

    def _chunk(self, kind: _Kind, told: Mapping[str, Any]) -> Iterator[Payload]:
        content = told.get("content")
        text = content.get("text") if isinstance(content, dict) and content.get("type") == "text" else None
        if not isinstance(text, str):
            yield _item(str(told["sessionUpdate"]), told)
            return
        message = told.get("messageId")
        if self._open != kind or (message and self._message and message != self._message):
            yield from self.close_prose()
        self._message = message
        for event in self._texts[kind].write(text):
            if kind == "thinking" and self._open is None:
                yield ThinkingStart()
            self._open = None if isinstance(event, ThinkingDone) else kind
            yield event


def _is_id(call_id: object) -> bool:
    return isinstance(call_id, str) and bool(call_id)


def _usage(kind: str, told: Mapping[str, Any]) -> Usage | None:
    """The counts in `_meta`, or of a usage_update. How full the context is, which that tells as well, is no count."""
    return find_usage(told if kind == "usage_update" else told.get("_meta"))


def _item(kind: str, told: Mapping[str, Any]) -> SystemItem:
    name = kind[:MAX_KIND]
    if name in RESERVED_ITEMS:  # for the Runtime to say
        name = f"agent_{name}"
    content = {key: value for key, value in told.items() if key != "sessionUpdate"}
    return SystemItem({"kind": name, "content": _bounded(content)})


def _bounded(content: dict[str, Any]) -> dict[str, Any]:
    """The same where it can be told on, or else why not."""
    try:
        check(content)
    except FieldProblem as problem:
        return {"left_out": problem.problem}
    size = len(orjson.dumps(content))
    return content if size <= MAX_ITEM else {"truncated": size}


def _ending(reason: object, interrupted: bool) -> Iterator[Payload]:
    if reason == "end_turn":
        yield RunEnd("finished")
    elif reason == CANCELLED and not interrupted:
        yield alert("the agent cancelled the run by itself")
        yield RunEnd("finished")
    elif reason == CANCELLED:
        yield alert("the run was interrupted")
        yield RunEnd("rolled_back")
    elif reason in ("max_tokens", "max_turn_requests"):
        yield RunEnd("limit_reached")
    elif reason == "refusal":
        yield ErrorRaised("provider_error", "the agent refused to go on")
        yield RunEnd("rolled_back")
    else:
        yield alert(f"the run ended for a reason that is not known here: {told_text(reason, '')[:MAX_KIND]!r}")
        yield RunEnd("finished")
