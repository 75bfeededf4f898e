"""What a job prints while it goes on, in each of its formats."""

import sys
import time
from typing import Any, Protocol

from runtimectl.client.run_progress import (
    NETWORK_REFUSED,
    PERMISSION_REQUEST,
    PERMISSION_RESOLVED,
    denial_of,
    is_script,
    refusal_text,
)
from runtimectl.client.run_result import Result
from runtimectl.client.session import Session, write_message, write_to_stderr
from runtimectl.job.records import json_line
from runtimectl.job.stdout import Stdout
from runtimectl.output.text import one_line, shortened

MAX_ARGUMENTS = 120
"""How many characters of the arguments of a tool call are shown."""

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINNER_AFTER_S = 1.0
ERASE_LINE = "\r\x1b[K"

Body = dict[str, Any]


class View(Protocol):
    """Prints the events and the result of a job."""

    def event(self, envelope: Body, text: str) -> None:
        """Print an event, and the text that it adds."""

    def note(self, message: str) -> None:
        """Print a message for people."""

    def tick(self) -> None:
        """Show that the job goes on."""

    def result(self, result: Result) -> None:
        """Print how the job ended."""


class TextView:
    """The text of the Worker on stdout as it comes; one line on stderr for each tool call, permission and refusal.

    On a terminal a spinner shows that the job goes on.
    """

    def __init__(self, session: Session, stdout: Stdout) -> None:
        self._session = session
        self._stdout = stdout
        self._lines = ProgressLines()
        self._spinner = Spinner(is_on=sys.stderr.isatty() and not session.quiet)

    def event(self, envelope: Body, text: str) -> None:
        if text:
            self._spinner.erase()
            self._stdout.write(text)
        for line in self._lines.event(envelope):
            self.note(line)

    def note(self, message: str) -> None:
        self._spinner.erase()
        self._session.notify(message)

    def tick(self) -> None:
        for line in self._lines.held():
            self.note(line)
        if not self._stdout.is_line_open:
            self._spinner.draw()

    def result(self, result: Result) -> None:
        self._spinner.erase()
        if self._stdout.is_line_open and (not result.progress.is_script or self._stdout.is_terminal):
            self._stdout.write("\n")
        if result.end.reason is not None:
            write_message(f"{result.end.outcome}: {result.end.reason}")


class JsonView:
    """The result as JSON on stdout, with `each` behind a line for every event. Nothing goes to stderr but notes."""

    def __init__(self, session: Session, stdout: Stdout, *, each: bool) -> None:
        self._session = session
        self._stdout = stdout
        self._each = each

    def event(self, envelope: Body, _text: str) -> None:
        if self._each and envelope["payload"]["event"] != "snapshot":
            self._stdout.write(json_line(envelope))

    def note(self, message: str) -> None:
        self._session.notify(message)

    def tick(self) -> None:
        """Show nothing."""

    def result(self, result: Result) -> None:
        self._stdout.write(json_line(result.body()))


class ProgressLines:
    """Lines for people about tool calls, permissions, refused connections and alerts.

    A permission request is held back for a moment: the profile or the command itself may answer it.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._requests: dict[str, Body] = {}
        self._held: list[Body] = []
        self._worker_id = ""

    def event(self, envelope: Body) -> list[str]:
        """Return the lines about an event."""
        self._worker_id = envelope["worker_id"]
        name, data = envelope["payload"]["event"], envelope["payload"].get("data") or {}
        if name == "system_item":
            return self._item(data.get("item") or {})
        if name == "tool_call_done" and not is_script(data):
            self._names[data["id"]] = data["name"]
            return [f"tool: {data['name']} {shortened(one_line(data['arguments']), MAX_ARGUMENTS)}"]
        if name == "tool_result" and (tool := self._names.pop(data["id"], None)) and data.get("is_error"):
            return [f"tool: {tool} failed: {shortened(one_line(data.get('summary', '')), MAX_ARGUMENTS)}"]
        if name == "alert":
            return [f"{data.get('level')}: {data.get('message')}"]
        return []

    def held(self) -> list[str]:
        """Return the lines that were held back: nobody has answered these requests so far."""
        held, self._held = self._held, []
        return [self._question(request) for request in held]

    def _item(self, item: Body) -> list[str]:
        if item.get("kind") == NETWORK_REFUSED:
            return [refusal_text(item)]
        if item.get("kind") == PERMISSION_REQUEST:
            self._requests[item["request_id"]] = item
            self._held.append(item)
        if item.get("kind") != PERMISSION_RESOLVED:
            return []
        request = self._requests.pop(item["request_id"], {})
        self._held = [held for held in self._held if held["request_id"] != item["request_id"]]
        if item["outcome"] == "cancelled" and item.get("by") == "runtime":
            return []
        how = denial_of(request, item) or "was granted"
        by = "" if item["outcome"] == "expired" else f" by {item.get('by')}"
        return [f"permission {how}{by}: {request.get('title', '')}"]

    def _question(self, request: Body) -> str:
        options = ", ".join(option["option_id"] for option in request["options"])
        command = f"runtimectl permissions answer {self._worker_id} {request['request_id']} OPTION"
        return f"permission requested: {request['title']}; answer with: {command} (OPTION: {options} or cancel)"


class Spinner:
    """A spinner with the time on stderr, which is a terminal."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._began = time.monotonic()
        self._is_drawn = False
        self._step = 0

    def draw(self) -> None:
        """Draw the next step, once the job has gone on for a while."""
        elapsed = time.monotonic() - self._began
        if self._is_on and elapsed > SPINNER_AFTER_S:
            self._step, self._is_drawn = self._step + 1, True
            write_to_stderr(f"{ERASE_LINE}{SPINNER[self._step % len(SPINNER)]} {elapsed:.0f} s")

    def erase(self) -> None:
        """Erase what was drawn."""
        if self._is_drawn:
            self._is_drawn = False
            write_to_stderr(ERASE_LINE)
