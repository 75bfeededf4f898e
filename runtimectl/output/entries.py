"""Transcript entries: made of the events of a feed, and shown as text for people."""

from typing import Any

from runtimectl.output.events import user_text
from runtimectl.output.text import escape_controls, one_line

SYSTEM_INPUT = "embedded_worker_system_input"

Entry = dict[str, Any]


def entry_from_event(envelope: dict[str, Any], sequence: int, worker_ref: dict[str, Any]) -> Entry | None:
    """Return the transcript entry that an event adds, as a page of the transcript has it.

    Args:
        envelope: The event as the feed sends it.
        sequence: The number of the entry.
        worker_ref: The reference of the Worker.

    Returns:
        The entry, or None if the event adds none.
    """
    spoken = _role_and_content(envelope["payload"]["event"], envelope["payload"].get("data") or {})
    if spoken is None:
        return None
    role, content = spoken
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


def entry_text(entry: Entry) -> str:
    """Return an entry as text. Further lines are indented, so that none looks like the first line of an entry."""
    content = escape_controls(str(entry["content"])).removesuffix("\n").replace("\n", "\n  ")
    return f"#{entry['sequence']} {one_line(str(entry['role']))}: {content}"


def _role_and_content(event: str, data: dict[str, Any]) -> tuple[str, str] | None:
    item = data.get("item") or {}
    if event == "user_message":
        return "user", user_text(data)
    if event == "text_done":
        return "assistant", data.get("text", "")
    if event == "system_item" and item.get("kind") == SYSTEM_INPUT:
        return "system", item.get("content", "")
    return None
