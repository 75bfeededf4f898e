"""Translate the tool calls of an agent. Each starts and ends once, whatever the agent leaves out or repeats."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import orjson

from runtimed.execution.acp.tool_content import (
    MAX_OUTPUT,
    CommandOutput,
    Content,
    as_text,
    content_of,
    cut,
    first_line,
)
from runtimed.model.event import Payload, SystemItem, ToolCallArgsDelta, ToolCallDone, ToolCallStart, ToolResult

MAX_OPEN_CALLS = 128
"""The most open tool calls; one more, and the oldest is closed."""

MAX_ENDED_CALLS = 1024
"""The most ended tool calls whose ids are remembered."""

MAX_TITLE = 500
MAX_NAME = 200
MAX_ID = 200
"""The most characters of the id of a call; a longer one ends in a digest of it."""

NESTED = '{"left_out":"nested too deeply"}'
NO_RESULT = "the agent reported no result"
_FINAL = ("completed", "failed")
_PRINTED = ("terminal_output", "terminal_output_delta")


@attrs.define
class _ToolCall:
    """An open tool call.

    Attributes:
        diffs: The last ones in its content. An agent may show them only when it asks for a permission.
    """

    id: str
    name: str
    title: str = ""
    kind: str = ""
    arguments: str = ""
    arguments_emitted: bool = False
    done: bool = False
    content: Content = attrs.field(factory=Content)
    diffs: tuple[dict[str, Any], ...] = ()
    printed: CommandOutput = attrs.field(factory=CommandOutput)
    exit_status: int | None = None
    output: str = ""
    output_line: str = ""
    refusal: str | None = None


class ToolCalls:
    """The open tool calls, by the ids that the agent gave them. Paths below `home` are shown relative to it."""

    def __init__(self) -> None:
        self.home = ""
        self._open: dict[str, _ToolCall] = {}
        self._ended: dict[str, tuple[int, int]] = {}
        self._run = 0

    def next_run(self) -> None:
        """Begin a run: an update to an ended call belongs to a new call from now on."""
        self._run += 1

    def shown_as(self, call_id: str) -> str | None:
        """Return the id of an open call in events."""
        call = self._open.get(_key(call_id))
        return call.id if call else None

    def arguments(self, call_id: str) -> str:
        """Return the known arguments of an open call."""
        call = self._open.get(_key(call_id))
        return call.arguments if call else ""

    def title(self, call_id: str) -> str | None:
        """Return the last title of an open call, if any."""
        call = self._open.get(_key(call_id))
        return call.title or None if call else None

    def kind(self, call_id: str) -> str | None:
        """Return the last kind of an open call, if any."""
        call = self._open.get(_key(call_id))
        return call.kind or None if call else None

    def observe(self, update: Mapping[str, Any], *, new: bool) -> Iterator[Payload]:
        """Take an update of a call, and yield its events.

        Args:
            update: The update or the tool call of a permission request.
            new: It cannot belong to a call that has ended.
        """
        call_id = _key(update["toolCallId"])
        if call_id not in self._open:
            if not new and self._has_ended(call_id):
                return
            yield from self._make_room()
            self._open[call_id] = call = _ToolCall(self._unique(call_id), _name(update))
            yield ToolCallStart(call.id, call.name)
        yield from self._follow(call_id, update)

    def settle(self, call_id: str | None = None) -> Iterator[Payload]:
        """Yield the current arguments of an open call, or of all open calls."""
        for known, call in self._open.items():
            if call_id is None or known == _key(call_id):
                yield from _settled(call)

    def refuse(self, call_id: str, why: str) -> None:
        """Remember why a tool is not going to run, in case the agent reports no result."""
        if call := self._open.get(_key(call_id)):
            call.refusal = why

    def close(self, why: str) -> Iterator[Payload]:
        """Yield the events that end all open calls; `why` is their summary if there is no better one."""
        for call_id in tuple(self._open):
            yield from self._end_without_result(call_id, why)

    def _has_ended(self, call_id: str) -> bool:
        return self._ended.get(call_id, (0, -1))[1] == self._run

    def _unique(self, call_id: str) -> str:
        times = self._ended.get(call_id, (0, 0))[0]
        return f"{call_id}#{times + 1}" if times else call_id

    def _make_room(self) -> Iterator[Payload]:
        if len(self._open) >= MAX_OPEN_CALLS:
            yield from self._end_without_result(next(iter(self._open)), NO_RESULT)

    def _follow(self, call_id: str, update: Mapping[str, Any]) -> Iterator[Payload]:
        call = self._open[call_id]
        call.title = _title(update) or call.title
        call.kind = as_text(update.get("kind"), call.kind)[:MAX_NAME]
        if not call.done:
            call.arguments = arguments_json(update.get("rawInput")) or call.arguments
        if isinstance(content := update.get("content"), list):
            call.content = content_of(content, self.home)
            call.diffs = call.content.diffs or call.diffs
        if (output := update.get("rawOutput")) is not None:
            call.output = cut(_json(output))
            call.output_line = first_line((output,)) if isinstance(output, str) else ""
        _run(call, _mapping(update.get("_meta")))
        status = update.get("status")
        if status == "in_progress" or status in _FINAL:
            yield from _done(call)
        if status in _FINAL:
            for diff in call.diffs if status == "completed" else call.content.diffs:
                yield SystemItem({"kind": "diff", "tool_call_id": call.id, **diff})
            yield self._result(call_id, _summary(call) or status, _output(call), is_error=status == "failed")

    def _end_without_result(self, call_id: str, why: str) -> Iterator[Payload]:
        call = self._open[call_id]
        yield from _done(call)
        yield self._result(call_id, call.refusal or why, _output(call), is_error=True)

    def _result(self, call_id: str, summary: str, output: str | None, *, is_error: bool) -> ToolResult:
        call = self._open.pop(call_id)
        times = self._ended.pop(call_id, (0, 0))[0]
        self._ended[call_id] = (times + 1, self._run)
        if len(self._ended) > MAX_ENDED_CALLS:
            del self._ended[next(iter(self._ended))]
        return ToolResult(call.id, summary, is_error, output, call.exit_status)


def _key(call_id: str) -> str:
    """Return the id, shortened to an equally unique one if it is too long."""
    if len(call_id) <= MAX_ID:
        return call_id
    digest = hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:32]
    return f"{call_id[: MAX_ID - 33]}~{digest}"


def _name(update: Mapping[str, Any]) -> str:
    """Return the name of the tool if the agent gives one, else its title."""
    meta = _mapping(update.get("_meta"))
    own = (update.get("name"), meta.get("toolName"), _mapping(meta.get("claudeCode")).get("toolName"))
    for name in (*own, update.get("title"), update.get("kind")):
        if isinstance(name, str) and name.strip():
            return name.strip()[:MAX_NAME]
    return "tool"


def _title(update: Mapping[str, Any]) -> str:
    """Return the title in an update; empty if it has none."""
    title = update.get("title")
    return title.strip()[:MAX_TITLE] if isinstance(title, str) else ""


def _run(call: _ToolCall, meta: Mapping[str, Any]) -> None:
    """Take the output and exit status of a command from the `_meta` of an update."""
    for key in _PRINTED:
        if isinstance(data := _mapping(meta.get(key)).get("data"), str):
            call.printed.add(data)
    status = _mapping(meta.get("terminal_exit")).get("exit_code")
    if isinstance(status, int) and not isinstance(status, bool):
        call.exit_status = status


def _mapping(update: object) -> Mapping[str, Any]:
    return update if isinstance(update, Mapping) else {}


def arguments_json(given: object) -> str:
    """Return arguments as JSON; an empty text if there are none."""
    if given is None or given in ({}, "", []):
        return ""
    if isinstance(given, str):
        with contextlib.suppress(orjson.JSONDecodeError):
            orjson.loads(given)
            return _json(given)
        return orjson.dumps(given[:MAX_OUTPUT]).decode()
    return _json(given)


def _settled(call: _ToolCall) -> Iterator[Payload]:
    """Yield the arguments in one piece: updates may bring them in part, or again."""
    if call.arguments and not call.arguments_emitted:
        call.arguments_emitted = True
        yield ToolCallArgsDelta(call.id, call.arguments)


def _done(call: _ToolCall) -> Iterator[Payload]:
    if not call.done:
        yield from _settled(call)
        call.done = True
        yield ToolCallDone(call.id, call.name, call.arguments or "{}")


def _json(given: object) -> str:
    try:
        text = given if isinstance(given, str) else orjson.dumps(given).decode()
    except orjson.JSONEncodeError:
        return NESTED
    return text if len(text) <= MAX_OUTPUT else orjson.dumps({"truncated": text[:MAX_OUTPUT]}).decode()


def _summary(call: _ToolCall) -> str:
    return call.content.line or first_line((call.printed.text(),)) or call.output_line


def _output(call: _ToolCall) -> str | None:
    """Return the text of a result, or else what the command printed, or else the raw output."""
    return call.content.text or call.printed.text() or call.output or None
