"""Translate the session updates of an agent, and the ends of its runs, into events.

Raw objects go in and events come out, without any I/O.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from runtimed.execution.acp.notice import NOTICE, notice
from runtimed.execution.acp.provider_error import ProviderError
from runtimed.execution.acp.system_items import MAX_KIND, update_item
from runtimed.execution.acp.tool_calls import NO_RESULT, ToolCalls
from runtimed.execution.acp.tool_content import as_text
from runtimed.execution.acp.usage import UsageTally
from runtimed.execution.session.text_output import MAX_CHARACTERS, Delta, Done, OpenText
from runtimed.execution.session.warnings import alert
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
_EXPLAINED = (CANCELLED, "max_tokens", "max_turn_requests", "refusal")
"""Stop reasons that explain the end of a run even if an error was reported beside them."""

_Kind = Literal["text", "thinking"]
_PROSE: Mapping[str, _Kind] = {"agent_message_chunk": "text", "agent_thought_chunk": "thinking"}
_EVENTS: Mapping[_Kind, tuple[type[Delta], type[Done]]] = {
    "text": (TextDelta, TextDone),
    "thinking": (ThinkingDelta, ThinkingDone),
}
_CALLS = ("tool_call", "tool_call_update")


class UpdateTranslator:
    """Translates all updates of one agent, from one run to the next.

    At most one text or thought is open. It ends when the other kind, a new message or a tool call follows, when it
    grows too long, or when the run ends. Tool calls end with the run at the latest.

    Args:
        max_open_text: The most characters of an open text.
    """

    def __init__(self, max_open_text: int = MAX_CHARACTERS) -> None:
        self._calls = ToolCalls()
        self._texts = {kind: OpenText(*events, max_open_text) for kind, events in _EVENTS.items()}
        self._open: _Kind | None = None
        self._message: object = None
        self._tally = UsageTally()
        self._provider_error = ProviderError()

    @property
    def has_open_text(self) -> bool:
        """Whether a text or a thought has no end yet."""
        return self._open is not None

    def show_paths_from(self, home: str) -> None:
        """Show paths below this directory relative to it from now on."""
        self._calls.home = home

    def update(self, update: Mapping[str, Any]) -> Iterator[Payload]:
        """Yield the events of a session update, the object with `sessionUpdate`."""
        kind = as_text(update.get("sessionUpdate"), "unknown")
        if kind in _PROSE:
            yield from self._chunk(_PROSE[kind], update)
        elif kind in _CALLS and _is_id(update.get("toolCallId")):
            yield from self.close_text()
            yield from self._calls.observe(update, new=kind == "tool_call")
        elif kind == NOTICE:
            yield from notice(update)
        else:
            yield update_item(kind, update)
        self._tally.note(update)
        self._provider_error.note(update)

    def permission(self, call: Mapping[str, Any]) -> Iterator[Payload]:
        """Yield the events that show the tool call of a permission request."""
        yield from self.close_text()
        if _is_id(call.get("toolCallId")):
            yield from self._calls.observe(call, new=True)
            yield from self._calls.settle(call["toolCallId"])

    def settle(self) -> Iterator[Payload]:
        """Yield the arguments of open tool calls that were held back: the Runtime is going to close the calls."""
        yield from self._calls.settle()

    def shown_as(self, call_id: object) -> str | None:
        """Return the id of an open tool call in events."""
        return self._calls.shown_as(call_id) if isinstance(call_id, str) else None

    def arguments(self, call_id: object) -> str:
        """Return the known arguments of an open tool call."""
        return self._calls.arguments(call_id) if isinstance(call_id, str) else ""

    def title(self, call_id: object) -> str | None:
        """Return the title of an open tool call, if it has one."""
        return self._calls.title(call_id) if isinstance(call_id, str) else None

    def kind(self, call_id: object) -> str | None:
        """Return the kind of the tool of an open call, if it has one."""
        return self._calls.kind(call_id) if isinstance(call_id, str) else None

    def deny(self, call_id: object, why: str) -> None:
        """Remember that a tool is not going to run; `why` is the summary if the agent reports no result."""
        if isinstance(call_id, str):
            self._calls.refuse(call_id, why)

    def begin(self) -> Iterator[Payload]:
        """Begin a run: yield the events that close what was left open."""
        yield from self.close(NO_RESULT)
        self._calls.next_run()
        self._tally, self._provider_error = UsageTally(), ProviderError()

    def end(self, response: Mapping[str, Any], *, interrupted: bool = False) -> Iterator[Payload]:
        """End a run: yield the events that close what is open, the usage and the end.

        Args:
            response: The answer to the prompt.
            interrupted: We asked to end the run; otherwise `cancelled` is the agent's own decision.
        """
        reason = response.get("stopReason")
        yield from self.close(CANCELLED if reason == CANCELLED else NO_RESULT)
        yield from self._tally.spent(response)
        words = None if reason in _EXPLAINED else self._provider_error.ended(response)
        yield from _ending(reason, interrupted) if words is None else _failed(words)

    def fail(self, message: str) -> Iterator[Payload]:
        """End a run whose prompt was answered with an error."""
        yield from self.close(NO_RESULT)
        yield from self.spent()
        yield from _failed(message)

    def spent(self) -> Iterator[Payload]:
        """Yield the usage of a run without an answer, as far as updates reported it."""
        yield from self._tally.spent({})

    def close(self, why: str) -> Iterator[Payload]:
        """Yield the events that close what is open; `why` is the summary of tool calls without a result."""
        yield from self.close_text()
        yield from self._calls.close(why)

    def close_text(self) -> Iterator[Payload]:
        """Yield the event that ends the open text or thought, if any."""
        if self._open is not None:
            yield from self._texts[self._open].close()
        self._open = None

    def _chunk(self, kind: _Kind, update: Mapping[str, Any]) -> Iterator[Payload]:
        content = update.get("content")
        text = content.get("text") if isinstance(content, dict) and content.get("type") == "text" else None
        if not isinstance(text, str):
            yield update_item(str(update["sessionUpdate"]), update)
            return
        message = update.get("messageId")
        if self._open != kind or (message and self._message and message != self._message):
            yield from self.close_text()
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
        yield alert("the agent cancelled the run on its own")
        yield RunEnd("finished")
    elif reason == CANCELLED:
        yield alert("the run was interrupted")
        yield RunEnd("rolled_back")
    elif reason in ("max_tokens", "max_turn_requests"):
        yield RunEnd("limit_reached")
    elif reason == "refusal":
        yield from _failed("the agent refused to continue")
    elif reason is None or reason == "":
        yield alert("the agent answered the prompt without a stop reason")
        yield RunEnd("finished")
    else:
        yield alert(f"the run ended for an unknown reason: {as_text(reason, '')[:MAX_KIND]!r}")
        yield RunEnd("finished")
