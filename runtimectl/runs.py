"""What the events of a Worker say about how its run goes."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from runtimectl.errors import NotPermitted, RunFailed
from runtimectl.text import one_line, shortened

BEGINNINGS = {"user_message", "invoke_start"}
STARTED = "input_started"
"""The kind of the item that tells whose turn it is."""

ASKED = "permission_request"
RESOLVED = "permission_resolved"

MAX_REASON = 200
"""Characters that are told of why a run ended."""


class Run:
    """The run that is going or was the last to go; `failure` says why it did not end well, or is None."""

    failure: str | None = None
    going = False
    _alert: str | None = None

    def see(self, payload: dict[str, Any]) -> bool:
        """Take in one more event; whether it ends the run."""
        name, data = payload["event"], payload.get("data") or {}
        if name == "snapshot":
            self.going = data.get("status") == "running"
        elif name in BEGINNINGS:
            self.failure, self._alert, self.going = None, None, True
        elif name == "alert":
            self._alert = data.get("message")
        elif name == "error":
            self.failure = f"the run ended in an error: {data.get('code')}: {data.get('message')}"
        elif name == "run_end" and data.get("result") != "finished":
            self.failure = self.failure or f"the run ended as {data.get('result')}{self.why()}"
        elif name == "shutdown" and self.going:
            self.failure = self.failure or "the Worker was stopped before its run ended"
        ended = name in {"run_end", "error", "shutdown"}
        self.going = self.going and not ended
        return ended

    def why(self) -> str:
        """What the last alert tells, as the end of a sentence."""
        return f": {shortened(one_line(self._alert), MAX_REASON)}" if self._alert else ""

    def check(self) -> None:
        """Raises RunFailed where there is a failure."""
        if self.failure:
            raise RunFailed(self.failure)


def watched(envelopes: Iterable[dict[str, Any]], asked: Callable[[dict[str, Any]], None]) -> Iterator[dict[str, Any]]:
    """The same events; `asked` is told of each permission request among them."""
    for envelope in envelopes:
        item = _item(envelope)
        if item.get("kind") == ASKED:
            asked(item)
        yield envelope


class AwaitedRun(Run):
    """The run of an input that somebody waits for; `exit_status` is that of its script, if a shell ran one."""

    exit_status: int | None = None
    _script: str | None = None
    _denial: str | None = None

    def __init__(self) -> None:
        self._asked: dict[str, dict[str, Any]] = {}

    def see(self, payload: dict[str, Any]) -> bool:
        """Take in one more event; whether it ends the run."""
        name, data = payload["event"], payload.get("data") or {}
        if name == "system_item":
            self._see_item(data.get("item") or {})
        elif name == "tool_call_done" and self._script is None and _is_script(data):
            self._script = data["id"]
        elif name == "tool_result" and data.get("id") == self._script:
            self.exit_status = data.get("exit_status")
        return super().see(payload)

    def _see_item(self, item: dict[str, Any]) -> None:
        if item.get("kind") == ASKED:
            self._asked[item["request_id"]] = item
        elif item.get("kind") == RESOLVED:
            asked = self._asked.pop(item["request_id"], {})
            verdict = _denial(asked, item)
            if verdict:
                self._denial = f"a permission {verdict}: {shortened(one_line(asked.get('title', '')), MAX_REASON)}"

    def check(self) -> None:
        """Raises NotPermitted where a permission was not given, else RunFailed where the run or its script failed."""
        if self._denial:
            raise NotPermitted("; ".join(filter(None, (self._denial, self.failure))))
        super().check()
        if self.exit_status:
            raise RunFailed(f"the script ended with exit status {self.exit_status}")


def _is_script(call: dict[str, Any]) -> bool:
    """Whether a tool call is the script that a shell runs for an input."""
    if call.get("name") != "shell":
        return False
    try:
        return bool(json.loads(call["arguments"]).keys() == {"script"})
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _denial(asked: dict[str, Any], resolved: dict[str, Any]) -> str | None:
    """How a permission was not given; None where it was, or where the end of its run took it back."""
    if resolved["outcome"] == "expired":
        return "expired unanswered"
    if resolved["outcome"] == "cancelled":
        return None if resolved.get("by") == "runtime" else "was denied"
    kinds = {option["option_id"]: option["kind"] for option in asked.get("options", ())}
    return "was denied" if kinds.get(resolved.get("option_id"), "").startswith("reject") else None


def read_to_end(
    run: Run,
    envelopes: Iterable[dict[str, Any]],
    turn: str | None = None,
    shown: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Read up to the end of the run that these events belong to, or to which the input with the cursor `turn` leads.

    `shown` gets the payloads of the run. Raises RunFailed when it never begins.
    """
    for envelope in envelopes if turn is None else _from_turn(iter(envelopes), turn):
        shown(envelope["payload"])
        if run.see(envelope["payload"]):
            return


def _from_turn(envelopes: Iterator[dict[str, Any]], turn: str) -> Iterator[dict[str, Any]]:
    """The events behind the one that tells that it is the turn of an input which has waited. Raises RunFailed."""
    before = Run()
    for envelope in envelopes:
        item = _item(envelope)
        before.see(envelope["payload"])
        if envelope["payload"]["event"] == "shutdown":
            raise RunFailed(f"the turn of the input never came{before.why()}")
        if item.get("kind") == STARTED and item.get("cursor") == turn:
            yield from envelopes


def _item(envelope: dict[str, Any]) -> dict[str, Any]:
    return (envelope["payload"].get("data") or {}).get("item") or {}
