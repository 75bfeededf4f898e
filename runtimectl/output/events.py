"""Events as text for people: a line for each event, or only the text that a Worker writes."""

import json
import sys
from collections.abc import Callable
from typing import Any

from runtimectl.output.text import escape_controls, one_line, shortened

MAX_SHOWN = 400
"""How many characters of an event's data a line shows."""

Data = dict[str, Any]


def event_line(envelope: dict[str, Any], *, with_worker: bool = False, raw: bool = False) -> str:
    """Return an event as a line: its cursor, its name and the relevant part of its data.

    Args:
        envelope: The event as the feed sends it.
        with_worker: Show the Worker's id after the cursor.
        raw: Neither cut the data nor escape its control characters.
    """
    payload = envelope["payload"]
    name, data = payload["event"], payload.get("data") or {}
    summary = str(_SUMMARIES.get(name, _pairs)(data))
    shown = summary if raw else shortened(one_line(summary), MAX_SHOWN)
    head = [envelope["cursor"], *([envelope["worker_id"]] if with_worker else []), name]
    return "  ".join([*map(one_line, head), shown]).rstrip(" ")


def user_text(data: Data) -> str:
    """Return the text of a `user_message`."""
    return "".join(segment.get("content", "") for segment in data.get("segments", ()))


class TextPrinter:
    """Prints the text that a Worker writes when it arrives, each piece once, control characters as escapes."""

    def __init__(self) -> None:
        self._printed = 0
        self._is_line_open = False

    def print_event(self, payload: dict[str, Any]) -> None:
        """Print the new text in an event, if there is any. A text that is complete ends its line."""
        name, text = payload["event"], (payload.get("data") or {}).get("text", "")
        if name == "text_delta":
            self._printed += len(text)
            self._print(text)
        elif name == "text_done":
            self._print(text[self._printed :])
            self._printed = 0
            self.end_line()

    def end_line(self) -> None:
        """End the line if it is open."""
        if self._is_line_open:
            self._print("\n")

    def _print(self, text: str) -> None:
        if text:
            sys.stdout.write(escape_controls(text))
            sys.stdout.flush()
            self._is_line_open = not text.endswith("\n")


def _text(data: Data) -> object:
    return data.get("text", "")


def _system_item(data: Data) -> object:
    item = data.get("item", {})
    rest = {name: value for name, value in item.items() if name != "kind"}
    return f"{item.get('kind')} {_pairs(rest)}"


def _snapshot(data: Data) -> object:
    blocks = (data.get("in_flight") or {}).get("blocks", ())
    return f"{data.get('status')} entries={len(data.get('entries', ()))} in_flight={len(blocks)}"


def _error(data: Data) -> object:
    return f"{data.get('code')}: {data.get('message')}"


def _alert(data: Data) -> object:
    return f"{data.get('level')} {data.get('source')}: {data.get('message')}"


def _pairs(data: Data) -> object:
    return " ".join(f"{name}={_value(value)}" for name, value in data.items())


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_SUMMARIES: dict[str, Callable[[Data], object]] = {
    "user_message": user_text,
    "system_item": _system_item,
    "text_delta": _text,
    "text_done": _text,
    "thinking_delta": _text,
    "thinking_done": _text,
    "snapshot": _snapshot,
    "error": _error,
    "alert": _alert,
}
