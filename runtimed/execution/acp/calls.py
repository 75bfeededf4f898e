"""The tool calls of an agent: starts and ends are said once each, whatever the agent leaves out or repeats."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import orjson

from runtimed.execution.acp.content import MAX_OUTPUT, Content, Printed, content_of, cut, first_line
from runtimed.model.event import Payload, SystemItem, ToolCallArgsDelta, ToolCallDone, ToolCallStart, ToolResult

MAX_OPEN_CALLS = 128
"""Tool calls without a result; one more, and the oldest is closed."""

MAX_ENDED_CALLS = 1024
"""Tool calls with a result whose ids are remembered."""

MAX_TITLE = 500
MAX_NAME = 200
MAX_ID = 200
"""Characters of a tool's name, and of the id of a call: a longer one ends in a digest of it."""

NESTED = '{"left_out":"nested too deeply"}'
UNTOLD = "the agent told no result"
_FINAL = ("completed", "failed")
_PRINTED = ("terminal_output", "terminal_output_delta")


@attrs.define
class _Call:
    """A tool call without a result."""

    id: str
    name: str
    title: str = ""
    arguments: str = ""
    told: bool = False
    done: bool = False
    content: Content = attrs.field(factory=Content)
    printed: Printed = attrs.field(factory=Printed)
    exit_status: int | None = None
    output: str = ""
    output_line: str = ""
    ruled: str | None = None


class Calls:
    """The tool calls that are open, by the ids that the agent gave them. Paths below `home` are told from there."""

    def __init__(self) -> None:
        self.home = ""
        self._open: dict[str, _Call] = {}
        self._ended: dict[str, tuple[int, int]] = {}
        self._run = 0

    def next_run(self) -> None:
        """From here on an update to a call that has ended is one to a new call."""
        self._run += 1

    def shown_as(self, call_id: str) -> str | None:
        """The id that events of this open call bear."""
        call = self._open.get(_key(call_id))
        return call.id if call else None

    def arguments(self, call_id: str) -> str:
        """What was told of the arguments of this open call."""
        call = self._open.get(_key(call_id))
        return call.arguments if call else ""

    def title(self, call_id: str) -> str | None:
        """The title of this open call, as told last."""
        call = self._open.get(_key(call_id))
        return call.title or None if call else None

    def sight(self, told: Mapping[str, Any], *, new: bool) -> Iterator[Payload]:
        """Take what was told of a call, in whichever form; `new` where it can't be one that has ended."""
        call_id = _key(told["toolCallId"])
        if call_id not in self._open:
            if not new and self._over(call_id):
                return
            yield from self._make_room()
            self._open[call_id] = call = _Call(self._unique(call_id), _name(told))
            yield ToolCallStart(call.id, call.name)
        yield from self._follow(call_id, told)

    def settle(self, call_id: str | None = None) -> Iterator[Payload]:
        """Tell the arguments of an open call, or of all: they are what they are by now."""
        for known, call in self._open.items():
            if call_id is None or known == _key(call_id):
                yield from _settled(call)

    def rule(self, call_id: str, why: str) -> None:
        """Remember why the tool is not going to run, for an agent that tells no result then."""
        if call := self._open.get(_key(call_id)):
            call.ruled = why

    def close(self, why: str) -> Iterator[Payload]:
        """End all that are open; `why` is the summary where nothing better is known."""
        for call_id in tuple(self._open):
            yield from self._end_untold(call_id, why)

    def _over(self, call_id: str) -> bool:
        return self._ended.get(call_id, (0, -1))[1] == self._run

    def _unique(self, call_id: str) -> str:
        times = self._ended.get(call_id, (0, 0))[0]
        return f"{call_id}#{times + 1}" if times else call_id

    def _make_room(self) -> Iterator[Payload]:
        if len(self._open) >= MAX_OPEN_CALLS:
            yield from self._end_untold(next(iter(self._open)), UNTOLD)

    def _follow(self, call_id: str, told: Mapping[str, Any]) -> Iterator[Payload]:
        call = self._open[call_id]
        call.title = _title(told) or call.title
        if not call.done:
            call.arguments = told_arguments(told.get("rawInput")) or call.arguments
        if isinstance(content := told.get("content"), list):
            call.content = content_of(content, self.home)
        if (output := told.get("rawOutput")) is not None:
            call.output = cut(_json(output))
            call.output_line = first_line((output,)) if isinstance(output, str) else ""
        _run(call, _mapping(told.get("_meta")))
        status = told.get("status")
        if status == "in_progress" or status in _FINAL:
            yield from _done(call)
        if status in _FINAL:
            for diff in call.content.diffs:
                yield SystemItem({"kind": "diff", "tool_call_id": call.id, **diff})
            yield self._result(call_id, _summary(call) or status, _output(call), is_error=status == "failed")

    def _end_untold(self, call_id: str, why: str) -> Iterator[Payload]:
        call = self._open[call_id]
        yield from _done(call)
        yield self._result(call_id, call.ruled or why, _output(call), is_error=True)

    def _result(self, call_id: str, summary: str, output: str | None, *, is_error: bool) -> ToolResult:
        call = self._open.pop(call_id)
        times = self._ended.pop(call_id, (0, 0))[0]
        self._ended[call_id] = (times + 1, self._run)
        if len(self._ended) > MAX_ENDED_CALLS:
            del self._ended[next(iter(self._ended))]
        return ToolResult(call.id, summary, is_error, output, call.exit_status)


def _key(call_id: str) -> str:
    """The id, or where it is too long for one that is as unlike others."""
    if len(call_id) <= MAX_ID:
        return call_id
    digest = hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:32]
    return f"{call_id[: MAX_ID - 33]}~{digest}"


def _name(told: Mapping[str, Any]) -> str:
    """What the tool is called, where the agent says that; else what people are shown."""
    meta = _mapping(told.get("_meta"))
    own = (told.get("name"), meta.get("toolName"), _mapping(meta.get("claudeCode")).get("toolName"))
    for name in (*own, told.get("title"), told.get("kind")):
        if isinstance(name, str) and name.strip():
            return name.strip()[:MAX_NAME]
    return "tool"


def _title(told: Mapping[str, Any]) -> str:
    """What people are shown of a call; empty where an update tells no other."""
    title = told.get("title")
    return title.strip()[:MAX_TITLE] if isinstance(title, str) else ""


def _run(call: _Call, meta: Mapping[str, Any]) -> None:
    """Take what is told beside a tool call of the terminal that its command ran in."""
    for key in _PRINTED:
        if isinstance(data := _mapping(meta.get(key)).get("data"), str):
            call.printed.add(data)
    status = _mapping(meta.get("terminal_exit")).get("exit_code")
    if isinstance(status, int) and not isinstance(status, bool):
        call.exit_status = status


def _mapping(told: object) -> Mapping[str, Any]:
    return told if isinstance(told, Mapping) else {}


def told_arguments(given: object) -> str:
    """Arguments as JSON; nothing where none are given."""
    if given is None or given in ({}, "", []):
        return ""
    if isinstance(given, str):
        with contextlib.suppress(orjson.JSONDecodeError):
            orjson.loads(given)
            return _json(given)
        return orjson.dumps(given[:MAX_OUTPUT]).decode()
    return _json(given)


def _settled(call: _Call) -> Iterator[Payload]:
    """The arguments, in one piece: until now they may have been told in part, or again."""
    if call.arguments and not call.told:
        call.told = True
        yield ToolCallArgsDelta(call.id, call.arguments)


def _done(call: _Call) -> Iterator[Payload]:
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


def _summary(call: _Call) -> str:
    return call.content.line or first_line((call.printed.text(),)) or call.output_line


def _output(call: _Call) -> str | None:
    """The text that the tool gave; where there is none, what it printed, or its raw output."""
    return call.content.text or call.printed.text() or call.output or None
