"""What an agent says, as events: session updates, the tool calls of permission requests, and how a run ended.

Nothing here is awaited and nothing is known of connections: raw objects go in, payloads come out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from runtimed.execution.acp.calls import UNTOLD, Calls
from runtimed.execution.acp.content import told_text
from runtimed.execution.acp.failure import Failure
from runtimed.execution.acp.items import MAX_KIND, update_item
from runtimed.execution.acp.usage import Tally
from runtimed.execution.complaints import alert
from runtimed.execution.output import MAX_CHARACTERS, Delta, Done, OpenText
from runtimed.model.event import (
    ErrorRaised,
    Payload,
    RunEnd,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
)

CANCELLED = "cancelled"
_TOLD = (CANCELLED, "max_tokens", "max_turn_requests", "refusal")
"""Stop reasons that say why the run ended, whatever was told of an error beside them."""

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

    def __init__(self, max_open_text: int = MAX_CHARACTERS) -> None:
        self._calls = Calls()
        self._texts = {kind: OpenText(*events, max_open_text) for kind, events in _EVENTS.items()}
        self._open: _Kind | None = None
        self._message: object = None
        self._tally = Tally()
        self._failure = Failure()

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
            yield update_item(kind, told)
        self._tally.note(told)
        self._failure.note(told)

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

    def title(self, call_id: object) -> str | None:
        """What people are shown of this open tool call, where that was told."""
        return self._calls.title(call_id) if isinstance(call_id, str) else None

    def deny(self, call_id: object, why: str) -> None:
        """A tool is not going to run: `why` is the summary where the agent tells no result."""
        if isinstance(call_id, str):
            self._calls.rule(call_id, why)

    def begin(self) -> Iterator[Payload]:
        """A run begins: what was left open before it is closed."""
        yield from self.close(UNTOLD)
        self._calls.next_run()
        self._tally, self._failure = Tally(), Failure()

    def end(self, response: Mapping[str, Any], *, interrupted: bool = False) -> Iterator[Payload]:
        """The run ended in this response to the prompt: close what is open, then the usage and how it ended.

        `interrupted`: the agent was told to end it; one that says so by itself has ended it as it sees fit.
        """
        reason = response.get("stopReason")
        yield from self.close(CANCELLED if reason == CANCELLED else UNTOLD)
        yield from self._tally.spent(response)
        words = None if reason in _TOLD else self._failure.ended(response)
        yield from _ending(reason, interrupted) if words is None else _failed(words)

    def fail(self, message: str) -> Iterator[Payload]:
        """The prompt was answered with an error: close what is open, then say so."""
        yield from self.close(UNTOLD)
        yield from self.spent()
        yield from _failed(message)

    def spent(self) -> Iterator[Payload]:
        """The usage of a run that has no answer to its prompt, as far as updates told it."""
        yield from self._tally.spent({})

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
            yield update_item(str(told["sessionUpdate"]), told)
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


def _failed(message: str) -> Iterator[Payload]:
    yield ErrorRaised("provider_error", message)
    yield RunEnd("rolled_back")


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
        yield from _failed("the agent refused to go on")
    elif reason is None or reason == "":
        yield alert("the agent answered the prompt without a stop reason")
        yield RunEnd("finished")
    else:
        yield alert(f"the run ended for a reason that is not known here: {told_text(reason, '')[:MAX_KIND]!r}")
        yield RunEnd("finished")
