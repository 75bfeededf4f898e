"""Limit updates that only replace each other to one a second, but always pass the last one on."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from runtimed.execution.acp.system_items import bounded
from runtimed.model.event import SystemItem

REPLACING = frozenset({"usage_update", "session_info_update", "available_commands_update"})
"""The kinds of updates that replace the one before."""

INTERVAL_S = 1.0
"""The least time between two updates of one kind and session, in seconds."""

MAX_HELD = 32
"""The most updates that are held back; one more, and the oldest is passed on."""

MAX_REMEMBERED = 256
"""The most sessions and kinds whose last time is remembered."""

Key = tuple[str, str]
"""The session, and the kind of the update."""


class UpdateThrottle:
    """Holds back an update that arrives too soon, until it is due or a newer one replaces it.

    Times are those of the event loop, in seconds. A `session_info_update` holds only what has changed, so it is
    merged with the one that it replaces.
    """

    def __init__(self) -> None:
        self._passed_on: dict[Key, float] = {}
        self._held: dict[Key, SystemItem] = {}

    def add(self, key: Key, item: SystemItem, now: float) -> Iterator[SystemItem]:
        """Take an update, and yield those that are due."""
        before = self._held.pop(key, None)
        if before is not None and key[1] == "session_info_update":
            item = _merged(before, item)
        self._held[key] = item
        yield from self.due(now)
        if len(self._held) > MAX_HELD:
            yield self._pass_on(next(iter(self._held)), now)

    def due(self, now: float) -> Iterator[SystemItem]:
        """Yield the updates that are due."""
        for key in tuple(self._held):
            if self._due(key) <= now:
                yield self._pass_on(key, now)

    def rest(self) -> Iterator[SystemItem]:
        """Yield all updates that are held back."""
        while self._held:
            yield self._held.pop(next(iter(self._held)))

    @property
    def next_due(self) -> float:
        """When the next update is due; infinite if none is held back."""
        return min(map(self._due, self._held), default=math.inf)

    def _due(self, key: Key) -> float:
        return self._passed_on.get(key, -math.inf) + INTERVAL_S

    def _pass_on(self, key: Key, now: float) -> SystemItem:
        self._passed_on.pop(key, None)
        self._passed_on[key] = now
        if len(self._passed_on) > MAX_REMEMBERED:
            del self._passed_on[next(iter(self._passed_on))]
        return self._held.pop(key)


def _merged(old: SystemItem, new: SystemItem) -> SystemItem:
    content = _over(old.item["content"], new.item["content"])
    return SystemItem({**new.item, "content": bounded(content)})


def _over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two objects, the new one over the old one, at every level. Their depth is bounded."""
    both = {**old, **new}
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(before := old.get(name), dict):
            both[name] = _over(before, value)
    return both
