"""Transcript entries, as pages and the feed bring them."""

from typing import Any

from runtimectl.events import user_text
from runtimectl.text import lines, one_line

SYSTEM_INPUT = "embedded_worker_system_input"

Item = dict[str, Any]


def entry_of(envelope: dict[str, Any], sequence: int, worker_ref: Item) -> Item | None:
    """The transcript item that an event became, with this sequence, or None where it became none."""
    said = _said(envelope["payload"]["event"], envelope["payload"].get("data") or {})
    if said is None:
        return None
    role, content = said
    cursor: str = envelope["cursor"]
    return {
        "sequence": sequence,
        "worker_ref": worker_ref,
        "role": role,
        "content": content,
        "event_id": int(cursor.removeprefix("wo_"), 16),
        "cursor": cursor,
        "timestamp_ms": envelope.get("timestamp_ms"),
    }


def readable(item: Item) -> str:
    """An item as text; further lines are indented, so that none can pass for the head of another item."""
    content = lines(str(item["content"])).removesuffix("\n").replace("\n", "\n  ")
    return f"#{item['sequence']} {one_line(str(item['role']))}: {content}"


def _said(event: str, data: Item) -> tuple[str, str] | None:
    item = data.get("item") or {}
    if event == "user_message":
        return "user", user_text(data)
    if event == "text_done":
        return "assistant", data.get("text", "")
    if event == "system_item" and item.get("kind") == SYSTEM_INPUT:
        return "system", item.get("content", "")
    return None
