"""What an agent says in the name of sessions that are not the Worker's, such as those of its subagents."""

from collections.abc import Mapping
from typing import Any

from runtimed.execution.acp.calls import MAX_TITLE
from runtimed.execution.acp.items import session_item
from runtimed.model.event import SystemItem

MAX_TITLES = 256
"""Tool calls of other sessions whose titles are remembered."""


class OtherSessions:
    """Tells their updates apart from the Worker's own, and remembers what their tool calls are called."""

    def __init__(self) -> None:
        self._titles: dict[tuple[str, str], str] = {}

    def update(self, session_id: str, told: Mapping[str, Any]) -> SystemItem:
        """The event of a session update."""
        self._note(session_id, told)
        return session_item(session_id, told)

    def permission(self, session_id: str, call: Mapping[str, Any]) -> SystemItem:
        """The event that shows the tool call of a permission request."""
        return self.update(session_id, {"sessionUpdate": "tool_call_update", **call})

    def title(self, session_id: str, call_id: object) -> str | None:
        """The title that a tool call was told with last."""
        return self._titles.get((session_id, call_id)) if isinstance(call_id, str) else None

    def _note(self, session_id: str, told: Mapping[str, Any]) -> None:
        call_id, title = told.get("toolCallId"), told.get("title")
        if not (isinstance(call_id, str) and isinstance(title, str) and title.strip()):
            return
        if max(len(call_id), len(session_id)) > MAX_TITLE:
            return
        self._titles.pop((session_id, call_id), None)
        self._titles[session_id, call_id] = title[:MAX_TITLE]
        if len(self._titles) > MAX_TITLES:
            del self._titles[next(iter(self._titles))]
