"""Session updates as system items, of a bounded size."""

from collections.abc import Mapping
from typing import Any

import orjson

from runtimed.core.engine.event_sink import RESERVED_ITEMS
from runtimed.model.event import SystemItem
from runtimed.wire.json import MAX_DEPTH, check
from runtimed.wire.problems import FieldProblem

MAX_ITEM = 1 << 20
"""Bytes of JSON that are kept of an update that becomes a system_item."""

MAX_META_BYTES = 4096
"""Bytes of JSON that all `_meta` of an update may have together; one that goes beyond is dropped."""

MAX_KIND = 100
MAX_SESSION_ID = 200

SESSION_UPDATE = "acp_session_update"
DIFF = "diff"
_OURS = RESERVED_ITEMS | {SESSION_UPDATE, DIFF}


def update_item(kind: str, told: Mapping[str, Any]) -> SystemItem:
    """An update of the Worker's own session. A kind that means something else here gets `agent_` in front."""
    name = kind[:MAX_KIND]
    content = {key: value for key, value in told.items() if key != "sessionUpdate"}
    return SystemItem({"kind": f"agent_{name}" if name in _OURS else name, "content": bounded(content)})


def session_item(session_id: str, told: Mapping[str, Any]) -> SystemItem:
    """An update of another session of the same agent."""
    content = bounded(dict(told))
    return SystemItem({"kind": SESSION_UPDATE, "session_id": session_id[:MAX_SESSION_ID], "content": content})


def bounded(content: dict[str, Any]) -> dict[str, Any]:
    """The same without large `_meta`, where it can be stored, or else why not."""
    kept: dict[str, Any] = _Trimmer().trim(content)
    try:
        check(kept)
    except FieldProblem as problem:
        return {"left_out": problem.problem}
    size = len(orjson.dumps(kept))
    return kept if size <= MAX_ITEM else {"truncated": size}


class _Trimmer:
    """Copies a value without the `_meta` that there is no room for. What is nested too deeply stays as it is."""

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
