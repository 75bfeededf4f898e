"""The prompts that an agent is sent."""

import contextlib
from binascii import a2b_base64
from typing import Any

from runtimed.model.interaction import Attachment, WorkerInput
from runtimed.model.worker import Intent, RoleIntent, TaskIntent

TEXT_TYPES = frozenset({"application/json", "application/xml", "application/yaml", "application/toml"})
"""The media types besides those of text that are given to agents as text."""

SYSTEM_MARK = "Message of the system, not of the user:"


def introduction(intent: Intent) -> str | None:
    """Return the intent of a Worker as context for its first prompt; None if it has none."""
    lines = []
    if isinstance(intent, TaskIntent):
        lines.append(f"Your objective: {intent.objective}")
    if isinstance(intent, RoleIntent):
        lines.append(f"Your role: {intent.role}")
    if not isinstance(intent, TaskIntent) and intent.purpose:
        lines.append(f"Your purpose: {intent.purpose}")
    return "\n".join(lines) or None


def blocks(given: WorkerInput, context: str | None) -> list[dict[str, Any]]:
    """Return the content blocks of a prompt.

    Args:
        given: The input. Its attachments come last; decoding them blocks.
        context: Text to put in front of it, if any.
    """
    text = given.content if given.kind == "user" else f"{SYSTEM_MARK}\n\n{given.content}"
    texts = [{"type": "text", "text": part} for part in (context, text) if part]
    return texts + [_block(attachment, number) for number, attachment in enumerate(given.attachments, start=1)]


def _block(attachment: Attachment, number: int) -> dict[str, Any]:
    mime_type = attachment.mime_type
    if attachment.data is None:
        uri = attachment.uri or ""
        return {"type": "resource_link", "uri": uri, "name": _name(uri) or mime_type, "mimeType": mime_type}
    if attachment.kind == "image":
        return {"type": "image", "data": attachment.data, "mimeType": mime_type}
    resource = {"uri": f"attachment:{number}", "mimeType": mime_type, **_content(attachment.data, mime_type)}
    return {"type": "resource", "resource": resource}


def _content(data: str, mime_type: str) -> dict[str, str]:
    """Return the data of a resource, as text if it is that."""
    if mime_type.lower().startswith("text/") or mime_type.lower() in TEXT_TYPES:
        with contextlib.suppress(UnicodeDecodeError):
            return {"text": a2b_base64(data).decode()}
    return {"blob": data}


def _name(uri: str) -> str:
    """Return the last part of the path of a URI."""
    return uri.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
