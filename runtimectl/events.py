"""Events as lines for people."""

import json
from collections.abc import Callable
from typing import Any

from runtimectl.text import one_line, shortened

MAX_SHOWN = 400

Data = dict[str, Any]


def line(envelope: dict[str, Any], *, named: bool = False, raw: bool = False) -> str:
    """The cursor, the name and what matters of the data; `raw` leaves the text whole and as the Worker wrote it.

    `named` has the Worker's id behind the cursor.
    """
    payload = envelope["payload"]
    name, data = payload["event"], payload.get("data") or {}
    told = str(_TOLD.get(name, _pairs)(data))
    shown = told if raw else shortened(one_line(told), MAX_SHOWN)
    head = [envelope["cursor"], *([envelope["worker_id"]] if named else []), name]
    return "  ".join([*map(one_line, head), shown]).rstrip(" ")


def user_text(data: Data) -> str:
    """What a user said."""
    return "".join(segment.get("content", "") for segment in data.get("segments", ()))


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


_TOLD: dict[str, Callable[[Data], object]] = {
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
