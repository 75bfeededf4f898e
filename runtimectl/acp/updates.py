"""Translate the events of a Worker into session updates. Pure: payloads go in, JSON objects come out."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from runtimed.model.event import (
    Alert,
    Payload,
    RunEnd,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ToolCallDone,
    ToolCallStart,
    ToolResult,
    UserMessage,
)

MAX_CHUNK_CHARACTERS = 1 << 16
"""How much text one chunk of a replay holds at most."""

MAX_TITLE_CHARACTERS = 200
SHELL = "shell"
"""The name of the tool call that a shell's script is."""

PASSED_ON = {
    "plan",
    "available_commands_update",
    "current_mode_update",
    "config_option_update",
    "session_info_update",
    "usage_update",
}
"""The kinds of items that are session updates of the agent, and stay what they are."""

Update = dict[str, Any]
ChunkKind = Literal["user_message_chunk", "agent_message_chunk", "agent_thought_chunk"]


class UpdateTranslator:
    """Translates the events of one Worker, in their order."""

    def __init__(self) -> None:
        self._text = _OpenText("agent_message_chunk")
        self._thought = _OpenText("agent_thought_chunk")
        self._diffs: dict[str, list[Update]] = {}

    def translate(self, cursor: str, payload: Payload) -> Iterator[Update]:
        """Yield the updates for an event.

        Args:
            cursor: Its cursor.
            payload: What happened.
        """
        match payload:
            case UserMessage(segments=segments):
                yield chunk("user_message_chunk", "".join(segment.content for segment in segments), cursor)
            case TextDelta(text=text):
                yield from self._text.delta(text, cursor)
            case TextDone(text=text):
                yield from self._text.done(text, cursor)
            case ThinkingDelta(text=text):
                yield from self._thought.delta(text, cursor)
            case ThinkingDone(text=text):
                yield from self._thought.done(text, cursor)
            case Alert(message=message):
                yield chunk("agent_thought_chunk", message, cursor)
            case RunEnd():
                self._forget_open()
            case _:
                yield from self._other(payload)

    def _forget_open(self) -> None:
        """Forget what a run has left open: the texts and calls of the next one are others."""
        self._text.end()
        self._thought.end()
        self._diffs.clear()

    def _other(self, payload: Payload) -> Iterator[Update]:
        match payload:
            case ToolCallStart(id=call_id, name=name):
                yield {**_call("tool_call", call_id, "pending"), "title": name, "kind": _kind(name)}
            case ToolCallDone(id=call_id, name=name, arguments=arguments):
                given = _parsed(arguments)
                yield {**_call("tool_call_update", call_id, "in_progress"), "rawInput": given, **_title(name, given)}
            case ToolResult():
                yield self._result(payload)
            case SystemItem(item=item):
                yield from self._item(item)
            case _:
                pass

    def _result(self, result: ToolResult) -> Update:
        status = "failed" if result.is_error else "completed"
        text = result.summary if result.output is None else result.output
        content = [*self._diffs.pop(result.id, ()), {"type": "content", "content": _text_block(text)}]
        exit_status = {} if result.exit_status is None else {"exit_status": result.exit_status}
        raw = {"summary": result.summary, **exit_status}
        return {**_call("tool_call_update", result.id, status), "content": content, "rawOutput": raw}

    def _item(self, item: dict[str, Any]) -> Iterator[Update]:
        kind, content = item.get("kind"), item.get("content")
        if kind == "diff" and isinstance(item.get("tool_call_id"), str):
            diff = {"type": "diff", "path": item.get("path"), "newText": item.get("new_text")}
            self._diffs.setdefault(item["tool_call_id"], []).append({**diff, "oldText": item.get("old_text")})
        elif kind in PASSED_ON and isinstance(content, dict):
            yield {**content, "sessionUpdate": kind}


class _OpenText:
    """A text that comes in pieces, and then whole: each piece is shown once."""

    def __init__(self, kind: ChunkKind) -> None:
        self._kind: ChunkKind = kind
        self._shown = 0
        self._message = ""

    def delta(self, text: str, cursor: str) -> Iterator[Update]:
        if not self._shown:
            self._message = cursor
        self._shown += len(text)
        yield chunk(self._kind, text, self._message)

    def done(self, text: str, cursor: str) -> Iterator[Update]:
        rest = text[self._shown :]
        if rest:
            yield from self.delta(rest, cursor)
        self.end()

    def end(self) -> None:
        self._shown = 0


def chunk(kind: ChunkKind, text: str, message_id: str) -> Update:
    """Return a piece of a message. Pieces with the same message id belong together."""
    return {"sessionUpdate": kind, "content": _text_block(text), "messageId": message_id}


def joined(updates: Iterable[Update]) -> Iterator[Update]:
    """Join chunks of one message that follow each other, up to MAX_CHUNK_CHARACTERS: a replay needs no pace."""
    waiting: Update | None = None
    for update in updates:
        if waiting is not None and _continues(waiting, update):
            waiting["content"]["text"] += update["content"]["text"]
            continue
        if waiting is not None:
            yield waiting
        waiting = update
    if waiting is not None:
        yield waiting


def _continues(before: Update, update: Update) -> bool:
    is_same = "messageId" in update and before.get("messageId") == update["messageId"]
    return (
        is_same
        and before["sessionUpdate"] == update["sessionUpdate"]
        and len(before["content"]["text"]) < MAX_CHUNK_CHARACTERS
    )


def _text_block(text: str) -> Update:
    return {"type": "text", "text": text}


def _call(update: str, call_id: str, status: str) -> Update:
    return {"sessionUpdate": update, "toolCallId": call_id, "status": status}


def _kind(name: str) -> str:
    return "execute" if name == SHELL else "other"


def _title(name: str, given: Any) -> Update:
    """Return the title of a script: its first line. Other calls keep the one that they have."""
    script = given.get("script") if isinstance(given, dict) else None
    if name != SHELL or not isinstance(script, str):
        return {}
    lines = script.strip().splitlines()
    return {"title": lines[0][:MAX_TITLE_CHARACTERS]} if lines else {}


def _parsed(arguments: str) -> Any:
    """Return the arguments of a call; as a text if they are no JSON."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
