"""What an agent says, as events: session updates, the tool calls of permission requests, and how a run ended.

Nothing here is awaited and nothing is known of connections: raw objects go in, payloads come out.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson

from runtimed.core.sink import RESERVED_ITEMS
from runtimed.execution.acp.calls import UNTOLD, Calls
from runtimed.execution.acp.usage import find_usage
from runtimed.execution.output import MAX_DELTA_CHARACTERS, MAX_TEXT_BLOCK
from runtimed.model.event import (
    Alert,
    AlertLevel,
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

MAX_ITEM = 1 << 20
"""Bytes of JSON that are kept of an update that becomes a system_item."""

MAX_KIND = 100

CANCELLED = "cancelled"
_PROSE: Mapping[str, Literal["text", "thinking"]] = {
    "agent_message_chunk": "text",
    "agent_thought_chunk": "thinking",
}
_CALLS = ("tool_call", "tool_call_update")


def alert(level: AlertLevel, message: str) -> Alert:
    """Something that a person should know, now."""
    return Alert(level, "worker", message, time.time_ns() // 1_000_000)


class Narration:
    """All that one agent says, from one run to the next.

    At most one text or thought is open; it is done when the other kind, a new message or a tool call follows, when
    it grows too long, or when the run ends. Tool calls are closed with the run, whatever the agent leaves out.
    """

    def __init__(self) -> None:
        self._calls = Calls()
        self._prose: Literal["text", "thinking"] | None = None
        self._message: object = None
        self._pieces: list[str] = []
        self._size = 0

    def update(self, told: Mapping[str, Any]) -> Iterator[Payload]:
        """The events of a session update: the object with `sessionUpdate`."""
        kind = str(told.get("sessionUpdate") or "unknown")
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

    def shown_as(self, call_id: object) -> str | None:
        """The id that events of this open tool call bear."""
        return self._calls.shown_as(call_id) if isinstance(call_id, str) else None

    def deny(self, call_id: str | None, why: str) -> None:
        """A tool is not going to run: `why` is the summary where the agent tells no result."""
        self._calls.rule(call_id, why)

    def begin(self) -> Iterator[Payload]:
        """A run begins: what was left open before it is closed."""
        yield from self.close(UNTOLD)
        self._calls.next_run()

    def end(self, response: Mapping[str, Any]) -> Iterator[Payload]:
        """The run ended in this response to the prompt: close what is open, then the usage and how it ended."""
        reason = response.get("stopReason")
        yield from self.close(CANCELLED if reason == "cancelled" else UNTOLD)
        if usage := find_usage(response.get("usage")) or find_usage(response.get("_meta")):
            yield usage
        yield from _ending(reason)

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
        if self._prose is not None:
            whole = "".join(self._pieces)
            yield TextDone(whole) if self._prose == "text" else ThinkingDone(whole)
        self._prose, self._pieces, self._size = None, [], 0

    def _chunk(self, kind: Literal["text", "thinking"], told: Mapping[str, Any]) -> Iterator[Payload]:
        content = told.get("content")
        text = content.get("text") if isinstance(content, dict) and content.get("type") == "text" else None
        if not isinstance(text, str):
            yield _item(str(told["sessionUpdate"]), told)
            return
        message = told.get("messageId")
        if self._prose not in {None, kind} or (message and self._message and message != self._message):
            yield from self.close_prose()
        self._message = message
        for start in range(0, len(text), MAX_DELTA_CHARACTERS):
            yield from self._write(kind, text[start : start + MAX_DELTA_CHARACTERS])

    def _write(self, kind: Literal["text", "thinking"], piece: str) -> Iterator[Payload]:
        size = len(piece.encode())
        if self._size + size > MAX_TEXT_BLOCK:
            yield from self.close_prose()
        if self._prose is None and kind == "thinking":
            yield ThinkingStart()
        self._prose = kind
        self._pieces.append(piece)
        self._size += size
        yield TextDelta(piece) if kind == "text" else ThinkingDelta(piece)


def _is_id(call_id: object) -> bool:
    return isinstance(call_id, str) and bool(call_id)


def _usage(kind: str, told: Mapping[str, Any]) -> Usage | None:
    """Counts in `_meta`; those of a usage_update, or the size of its context where it has none."""
    if kind != "usage_update":
        return find_usage(told.get("_meta"))
    if usage := find_usage(told):
        return usage
    used = told.get("used")
    return Usage(used, None) if isinstance(used, int) and not isinstance(used, bool) and used >= 0 else None


def _item(kind: str, told: Mapping[str, Any]) -> SystemItem:
    name = kind[:MAX_KIND]
    if name in RESERVED_ITEMS:  # for the Runtime to say
        name = f"agent_{name}"
    content = {key: value for key, value in told.items() if key != "sessionUpdate"}
    size = len(orjson.dumps(content))
    return SystemItem({"kind": name, "content": content if size <= MAX_ITEM else {"truncated": size}})


def _ending(reason: object) -> Iterator[Payload]:
    if reason == "end_turn":
        yield RunEnd("finished")
    elif reason == "cancelled":
        yield alert("warn", "the run was interrupted")
        yield RunEnd("rolled_back")
    elif reason in ("max_tokens", "max_turn_requests"):
        yield RunEnd("limit_reached")
    elif reason == "refusal":
        yield ErrorRaised("provider_error", "the agent refused to go on")
        yield RunEnd("rolled_back")
    else:
        yield alert("warn", f"the run ended for a reason that is not known here: {str(reason)[:MAX_KIND]!r}")
        yield RunEnd("finished")
