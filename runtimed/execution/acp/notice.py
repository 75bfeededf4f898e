"""Notices of an agent: messages for people that are no part of the conversation."""

from collections.abc import Iterator, Mapping
from typing import Any

from runtimed.execution.acp.system_items import update_item
from runtimed.execution.acp.tool_calls import MAX_TITLE
from runtimed.execution.acp.tool_content import as_text
from runtimed.execution.session.warnings import alert
from runtimed.model.event import AlertLevel, Payload

NOTICE = "notice"
MAX_DESCRIPTION = 4000
"""The most characters of the description of a notice."""


def notice(update: Mapping[str, Any]) -> Iterator[Payload]:
    """Yield the alert of a notice. A notice without a title stays an item."""
    title = as_text(update.get("title"), "").strip()[:MAX_TITLE]
    description = as_text(update.get("description"), "").strip()[:MAX_DESCRIPTION]
    if not title:
        yield update_item(NOTICE, update)
        return
    level: AlertLevel = "error" if update.get("severity") == "error" else "warn"
    yield alert(f"{title}: {description}" if description else title, level)
