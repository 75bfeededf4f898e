"""The progress of one run: a fold over the events of its Worker."""

import json
from collections import deque
from typing import Any, NamedTuple

from runtimectl.result import Outcome

MAX_TEXT_CHARACTERS = 16 << 20
"""How much text of a run is kept for its result. Of more, the newest is kept."""

PERMISSION_REQUEST = "permission_request"
PERMISSION_RESOLVED = "permission_resolved"
NETWORK_REFUSED = "network_refused"
OWN_ITEMS = {
    PERMISSION_REQUEST,
    PERMISSION_RESOLVED,
    NETWORK_REFUSED,
    "input_started",
    "embedded_worker_system_input",
}
"""The kinds of items that the Runtime emits itself: they are no answer of an agent."""

LIMITS = {"oom", "processes", "cpu", "disk", "output", "timeout", "silence"}
"""The reasons of an error that are limits of a profile. Every other reason means that the program was lost."""

CUT = "the run was cut"
"""How the error begins with which the Runtime ends a run that a restart has cut."""

Data = dict[str, Any]


class End(NamedTuple):
    """How a run ended: its outcome, and why it did not finish."""

    outcome: Outcome
    reason: str | None = None


class RunProgress:
    """What is known of a run from the events so far. `record` takes them in order, from the Worker's first one.

    Attributes:
        end: How the run ended, by its events; None while it goes on.
        is_over: The Worker has ended: this was its last event.
        exit_status: The exit status of its script, or None if no shell ran one.
        usage: The tokens that the run used, as the newest `usage` event has them.
        cursor: The cursor of the newest event; None before the first.
        requests: The open permission requests by id.
        asked: How many permissions were requested.
        denied: How many of them were denied, by anybody.
        expired: How many of them expired unanswered.
        denial: The first permission that was denied or expired, in words.
    """

    end: End | None = None
    is_over = False
    exit_status: int | None = None
    usage: Data | None = None
    cursor: str | None = None
    asked = denied = expired = 0
    denial: str | None = None
    _script: str | None = None
    _alert: str | None = None
    _error: Data | None = None
    _has_answered = False

    def __init__(self) -> None:
        self.requests: dict[str, Data] = {}
        self.text = RunText()
        self._unanswered: list[Data] = []

    @property
    def is_script(self) -> bool:
        """Whether a shell runs the input as a script."""
        return self._script is not None

    def unanswered(self) -> list[Data]:
        """Return the permission requests that came since the last call and are open."""
        found, self._unanswered = self._unanswered, []
        return [request for request in found if request["request_id"] in self.requests]

    def record(self, envelope: Data) -> str:
        """Record an event; a snapshot is none. Returns the text that the event adds to what the Worker wrote."""
        name, data = envelope["payload"]["event"], envelope["payload"].get("data") or {}
        if name == "snapshot":
            return ""
        self.cursor = envelope["cursor"]
        if name in {"text_delta", "text_done"}:
            added = self.text.add(name, data.get("text", ""), is_exact=self.is_script)
            self._has_answered = self._has_answered or bool(added.strip())
            return added
        if name == "system_item":
            self._record_item(data.get("item") or {})
        elif name.startswith("tool_"):
            self._record_tool(name, data)
        elif name == "usage":
            self.usage = data
        elif name == "alert":
            self._alert = data.get("message")
        elif name == "error":
            self._error = data
        elif name in {"run_end", "shutdown"}:
            self.is_over = name == "shutdown"
            self.end = self.end or self._ending(data.get("result", ""))
        return ""

    def _record_tool(self, name: str, data: Data) -> None:
        if name == "tool_call_done" and self._script is None and is_script(data):
            self._script = data["id"]
        elif name == "tool_result" and data.get("id") == self._script:
            self.exit_status = data.get("exit_status")
        self._has_answered = True

    def _record_item(self, item: Data) -> None:
        kind = item.get("kind")
        if kind == PERMISSION_REQUEST:
            self.asked += 1
            self.requests[item["request_id"]] = item
            self._unanswered.append(item)
        elif kind == PERMISSION_RESOLVED:
            self._resolve(self.requests.pop(item["request_id"], {}), item)
        elif kind not in OWN_ITEMS:
            self._has_answered = True

    def _resolve(self, request: Data, resolved: Data) -> None:
        denial = denial_of(request, resolved)
        if denial is None:
            return
        self.expired += resolved["outcome"] == "expired"
        self.denied += resolved["outcome"] != "expired"
        self.denial = self.denial or f"a permission {denial}: {request.get('title', '')}"

    def _ending(self, result: str) -> End:
        if self.is_over:
            return End("interrupted", "the Worker was stopped before its run ended")
        if result == "limit_reached":
            return End("limit_reached", self._alert or "the agent reached a limit of its own")
        if result == "finished":
            return End("finished") if self._has_answered else End("failed", "the agent answered nothing")
        return self._failure(result)

    def _failure(self, result: str) -> End:
        error = self._error
        if error is None and result == "rolled_back":
            return End("interrupted", self._alert or "the run was interrupted")
        if error is None:
            return End("failed", f"the run ended as {result}")
        message, reason = f"{error.get('code')}: {error.get('message')}", error.get("reason")
        if reason in LIMITS:
            return End("limit_reached", message)
        is_lost = reason is not None or str(error.get("message")).startswith(CUT)
        return End("lost" if is_lost else "failed", message)


class RunText:
    """The text that a Worker writes, joined from its pieces: each piece once.

    Attributes:
        is_cut: The oldest text was dropped, since there is more than MAX_TEXT_CHARACTERS.
    """

    is_cut = False
    _open = 0
    _begins_block = False
    _ends_line = True

    def __init__(self) -> None:
        self._pieces: deque[str] = deque()
        self._size = 0

    def __str__(self) -> str:
        return "".join(self._pieces)

    def add(self, name: str, text: str, *, is_exact: bool) -> str:
        """Add the text of a `text_delta`, or what a `text_done` has beyond its deltas, and return what was added.

        Args:
            name: The name of the event.
            text: Its text.
            is_exact: A program printed the text: nothing is added between two blocks. Else each begins on a line of
                its own.
        """
        if name == "text_done":
            added, self._open = text[self._open :], 0
        else:
            added, self._open = text, self._open + len(text)
        if added and self._begins_block and not self._ends_line and not is_exact:
            added = f"\n{added}"
        if added:
            self._keep(added)
            self._ends_line = added.endswith("\n")
        if added or name == "text_done":
            self._begins_block = name == "text_done"
        return added

    def _keep(self, text: str) -> None:
        self.is_cut = self.is_cut or len(text) > MAX_TEXT_CHARACTERS
        self._pieces.append(text[-MAX_TEXT_CHARACTERS:])
        self._size += len(self._pieces[-1])
        while self._size > MAX_TEXT_CHARACTERS:
            self.is_cut = True
            self._size -= len(self._pieces.popleft())


def is_script(call: Data) -> bool:
    """Return whether a tool call is the script that a shell runs for an input."""
    if call.get("name") != "shell":
        return False
    try:
        return bool(json.loads(call["arguments"]).keys() == {"script"})
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def refusal_text(item: Data) -> str:
    """Return the item about a refused connection as a line for people."""
    host = f"[{item['host']}]" if ":" in item["host"] else item["host"]
    more = f" ({item['left_out']} more were refused before)" if item.get("left_out") else ""
    return f"network: connection to {host}:{item['port']} refused: {item['reason']}{more}"


def denial_of(request: Data, resolved: Data) -> str | None:
    """Return how a permission was denied; None if it was granted, or withdrawn because its run ended."""
    if resolved["outcome"] == "expired":
        return "expired unanswered"
    if resolved["outcome"] == "cancelled":
        return None if resolved.get("by") == "runtime" else "was denied"
    kinds = {option["option_id"]: option["kind"] for option in request.get("options", ())}
    return "was denied" if kinds.get(resolved.get("option_id"), "").startswith("reject") else None
