"""Turn session updates into system items of a bounded size."""

from collections.abc import Mapping
from typing import Any

import orjson

from runtimed.core.state.runtime_items import RESERVED_KINDS
from runtimed.execution.acp.tool_calls import MAX_TITLE
from runtimed.execution.network.refusals import NETWORK_REFUSED
from runtimed.model.event import SystemItem
from runtimed.wire.json import MAX_DEPTH, check
from runtimed.wire.problems import FieldProblem

MAX_ITEM = 1 << 20
"""The most bytes of JSON in a system_item; a larger one is left out."""

MAX_META_BYTES = 4096
"""The most bytes of JSON in all `_meta` of an update; what goes beyond is dropped."""

MAX_KIND = 100
MAX_SESSION_ID = 200

SESSION_UPDATE = "acp_session_update"
DIFF = "diff"
_OURS = RESERVED_KINDS | {SESSION_UPDATE, DIFF, NETWORK_REFUSED}

MAX_TITLES = 256
"""The most tool calls of other sessions whose titles are remembered."""


def update_item(kind: str, update: Mapping[str, Any]) -> SystemItem:
    """Return an update of the Worker's own session. A kind that is reserved here gets the prefix `agent_`."""
    name = kind[:MAX_KIND]
    content = {key: value for key, value in update.items() if key != "sessionUpdate"}
    return SystemItem({"kind": f"agent_{name}" if name in _OURS else name, "content": bounded(content)})


def session_item(session_id: str, update: Mapping[str, Any]) -> SystemItem:
    """Return an update of another session of the same agent."""
    content = bounded(dict(update))
    return SystemItem({"kind": SESSION_UPDATE, "session_id": session_id[:MAX_SESSION_ID], "content": content})


def bounded(content: dict[str, Any]) -> dict[str, Any]:
    """Drop large `_meta`; if the rest can't be stored, return why."""
    kept: dict[str, Any] = _Trimmer().trim(content)
    try:
        check(kept)
    except FieldProblem as problem:
        return {"left_out": problem.problem}
    size = len(orjson.dumps(kept))
    return kept if size <= MAX_ITEM else {"truncated": size}


class OtherSessions:
    """The sessions of an agent that are not the Worker's own, such as those of subagents."""

    def __init__(self) -> None:
        self._titles: dict[tuple[str, str], str] = {}

    def update(self, session_id: str, update: Mapping[str, Any]) -> SystemItem:
        """Return the event of a session update."""
        self._note(session_id, update)
        return session_item(session_id, update)

    def permission(self, session_id: str, call: Mapping[str, Any]) -> SystemItem:
        """Return the event that shows the tool call of a permission request."""
        return self.update(session_id, {"sessionUpdate": "tool_call_update", **call})

    def title(self, session_id: str, call_id: object) -> str | None:
        """Return the last title of a tool call, if any."""
        return self._titles.get((session_id, call_id)) if isinstance(call_id, str) else None

    def _note(self, session_id: str, update: Mapping[str, Any]) -> None:
        call_id, title = update.get("toolCallId"), update.get("title")
        if not (isinstance(call_id, str) and isinstance(title, str) and title.strip()):
            return
        if max(len(call_id), len(session_id)) > MAX_TITLE:
            return
        self._titles.pop((session_id, call_id), None)
        self._titles[session_id, call_id] = title[:MAX_TITLE]
        if len(self._titles) > MAX_TITLES:
            del self._titles[next(iter(self._titles))]


class _Trimmer:
    """Copy a value without the `_meta` that is too large. What is nested too deeply stays as it is."""

    def __init__(self) -> None:
        self._left = MAX_META_BYTES

    def trim(self, value: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            return value
        if isinstance(value, list):
            return [self.trim(inner, depth + 1) for inner in value]
        if isinstance(value, dict):
            kept = {name: inner for name, inner in value.items() if name != "_meta" or self._fits(inner)}
            return {name: inner if name == "_meta" else self.trim(inner, depth + 1) for name, inner in kept.items()}
        return value

    def _fits(self, meta: Any) -> bool:
        try:
            size = len(orjson.dumps(meta))
        except orjson.JSONEncodeError:  # nested too deeply
            return False
        if size > self._left:
            return False
        self._left -= size
        return True
