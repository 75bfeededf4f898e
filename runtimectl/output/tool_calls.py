"""Tool calls: each one record, joined from its events, and shown as text for people."""

from typing import Any

from runtimectl.output.text import escape_controls, one_line

MAX_OPEN_CALLS = 1000
"""How many tool calls may wait for their result. The oldest are forgotten."""

TOOL_CALL = "tool_call"

Record = dict[str, Any]


class ToolCalls:
    """Joins the events of each tool call into one record, with its result and its exit status."""

    def __init__(self) -> None:
        self._open: dict[str, Record] = {}

    def record(self, envelope: dict[str, Any]) -> Record | None:
        """Record an event. Returns the tool call that it completes, or None."""
        name, data = envelope["payload"]["event"], envelope["payload"].get("data") or {}
        if name == "tool_call_done":
            self._open[data["id"]] = data
            if len(self._open) > MAX_OPEN_CALLS:
                del self._open[next(iter(self._open))]
        if name != "tool_result":
            return None
        call = self._open.pop(data["id"], {})
        return {
            "kind": TOOL_CALL,
            "cursor": envelope["cursor"],
            "timestamp_ms": envelope.get("timestamp_ms"),
            "name": call.get("name", ""),
            "arguments": call.get("arguments", ""),
            **data,
        }


def tool_text(call: Record) -> str:
    """Return a tool call as text: its name and arguments, then its result, indented."""
    result = [str(call.get("summary") or ""), *([str(call["output"])] if call.get("output") else [])]
    if call.get("exit_status") is not None and f"exit status {call['exit_status']}" not in result[0]:
        result.append(f"exit status {call['exit_status']}")
    lines = escape_controls("\n".join(filter(None, result))).removesuffix("\n").replace("\n", "\n  ")
    return one_line(f"> {call['name']} {call['arguments']}".rstrip()) + (f"\n  {lines}" if lines else "")
