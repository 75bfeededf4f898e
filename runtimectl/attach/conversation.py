"""What a terminal shows of a Worker: text as it comes, tool calls folded, open questions. Pure."""

from typing import Any

from runtimectl.attach.rows import RowWrapper, fitted, wrapped
from runtimectl.client.run_progress import NETWORK_REFUSED, denial_of, refusal_text
from runtimectl.output.text import one_line, shortened
from runtimed.model.event import (
    Alert,
    ErrorRaised,
    InvokeStart,
    Payload,
    RunEnd,
    Shutdown,
    Snapshot,
    SystemItem,
    TextBlock,
    TextDelta,
    TextDone,
    ThinkingStart,
    ToolCallDone,
    ToolResult,
    UserMessage,
)
from runtimed.model.permission import Permission

MAX_SHOWN_ENTRIES = 20
"""How many entries of the past are shown at the beginning."""

MAX_OPEN_CALLS = 256
MAX_ARGUMENTS = 1000
"""How many characters of the arguments of a tool call are kept: more fit no row."""

SHELL = "shell"


class Conversation:
    """The rows of a conversation.

    Args:
        columns: The width of the terminal.

    Attributes:
        is_running: A run is going on.
        is_over: The Worker has ended.
        questions: The open permission requests by id, oldest first.
        activity: What the Worker does now, in one row; empty if it writes or waits.
    """

    def __init__(self, columns: int) -> None:
        self.is_running = False
        self.is_over = False
        self.questions: dict[str, Permission] = {}
        self.activity = ""
        self._asked: dict[str, dict[str, Any]] = {}
        self._text = RowWrapper(columns)
        self._shown = 0
        self._calls: dict[str, ToolCallDone] = {}

    @property
    def partial(self) -> str:
        """The row of text that is not complete yet."""
        return self._text.partial

    def resize(self, columns: int) -> None:
        """Break what comes from now on for another width."""
        self._text.columns = columns

    def note(self, text: str) -> list[str]:
        """Return the rows of a message of the command itself."""
        return [*self._text.finish(), *wrapped(one_line(f"# {text}"), self._text.columns)]

    def record(self, payload: Payload) -> list[str]:
        """Record an event and return its rows."""
        match payload:
            case Snapshot():
                return self._snapshot(payload)
            case UserMessage(segments=segments):
                return self._said("".join(segment.content for segment in segments))
            case TextDelta(text=text):
                self.activity, self._shown = "", self._shown + len(text)
                return self._text.add(text)
            case TextDone(text=text):
                rest, self._shown = text[self._shown :], 0
                return [*self._text.add(rest), *self._text.finish()]
            case InvokeStart():
                self.is_running = True
            case ThinkingStart():
                self.activity = "thinking"
            case _:
                return self._other(payload)
        return []

    def _other(self, payload: Payload) -> list[str]:
        match payload:
            case ToolCallDone(id=call_id):
                if len(self._calls) >= MAX_OPEN_CALLS:
                    del self._calls[next(iter(self._calls))]
                self._calls[call_id] = payload
                self.activity = _call_text(payload)
            case ToolResult():
                return self._result(payload)
            case SystemItem(item=item):
                return self._item(item)
            case Alert(message=message):
                return self.note(message)
            case ErrorRaised(code=code, message=message):
                return self.note(f"{code}: {message}")
            case RunEnd(result=result):
                return self._ended(result)
            case Shutdown():
                self.is_over, self.is_running = True, False
                return self.note("the Worker has ended")
            case _:
                pass
        return []

    def _snapshot(self, snapshot: Snapshot) -> list[str]:
        rows: list[str] = []
        for entry in snapshot.entries[-MAX_SHOWN_ENTRIES:]:
            rows += self._said(entry.content) if entry.role == "user" else self._whole(entry.content)
        self.is_running = snapshot.status == "running"
        for block in snapshot.in_flight.blocks if snapshot.in_flight else ():
            if isinstance(block, TextBlock) and not block.finished:
                self._shown = len(block.text)
                rows += self._text.add(block.text)
        for permission in snapshot.permissions:
            rows += self.ask(permission)
        return rows

    def ask(self, permission: Permission) -> list[str]:
        """Add a question and return its rows. A question is added once."""
        if permission.request_id in self.questions:
            return []
        self.questions[permission.request_id] = permission
        options = "  ".join(f"[{n}] {option.name}" for n, option in enumerate(permission.options, 1))
        rows = wrapped(one_line(f"? {permission.title}"), self._text.columns)
        return [*self._text.finish(), *rows, *wrapped(one_line(f"  {options}"), self._text.columns)]

    def _item(self, item: dict[str, Any]) -> list[str]:
        if item.get("kind") == NETWORK_REFUSED:
            return self.note(refusal_text(item))
        request_id = str(item.get("request_id"))
        if item.get("kind") == "permission_request":
            self._asked[request_id] = item
        elif item.get("kind") == "permission_resolved":
            asked = self._asked.pop(request_id, {})
            question = self.questions.pop(request_id, None)
            if question is not None:
                return [fitted(f"  {_ruling(asked, item, question)}", self._text.columns)]
        return []

    def _result(self, result: ToolResult) -> list[str]:
        call = self._calls.pop(result.id, None)
        self.activity = ""
        status = f" (exit {result.exit_status})" if result.exit_status else ""
        failed = " failed:" if result.is_error and not status else ""
        name = "* tool" if call is None else _call_text(call)
        summary = "" if call is not None and call.name == SHELL else f" {result.summary}"
        row = one_line(f"{name}{failed}{summary}".rstrip())
        columns = self._text.columns - len(status)
        return [*self._text.finish(), fitted(row, columns) + status]

    def _ended(self, result: str) -> list[str]:
        self.is_running, self.activity, self._shown = False, "", 0
        rows = self._text.finish()
        return rows if result == "finished" else [*rows, *self.note(f"the run ended as {result}")]

    def _said(self, text: str) -> list[str]:
        return [*self._text.finish(), *(row for line in text.split("\n") for row in self._quoted(line))]

    def _quoted(self, line: str) -> list[str]:
        return [f"> {row}" for row in wrapped(one_line(line), self._text.columns - 2)]

    def _whole(self, text: str) -> list[str]:
        return [*self._text.add(text), *self._text.finish()]


def _call_text(call: ToolCallDone) -> str:
    return one_line(f"* {call.name} {shortened(call.arguments, MAX_ARGUMENTS)}".rstrip())


def _ruling(asked: dict[str, Any], resolved: dict[str, Any], question: Permission) -> str:
    option = next((each.name for each in question.options if each.option_id == resolved.get("option_id")), None)
    if option is not None:
        return f"{option} (by {resolved.get('by')})"
    return denial_of(asked, resolved) or "withdrawn"
