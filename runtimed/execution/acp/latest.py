"""Updates that only replace each other: a bounded number of them in a second, the last one always."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from runtimed.execution.acp.items import bounded
from runtimed.model.event import SystemItem

REPLACING = frozenset({"usage_update", "session_info_update", "available_commands_update"})
"""The kinds of updates each of which makes the one before it void."""

INTERVAL_S = 1.0
"""How often an update of one of these kinds is stored, for each session."""

MAX_HELD = 32
"""Updates that are held back; one more, and the oldest is told."""

MAX_REMEMBERED = 256
"""Sessions and kinds of which is known when the last one was told."""

Key = tuple[str, str]
"""The session, and the kind of the update."""


class Latest:
    """Holds back what came too soon, until its time has come or something newer replaces it.

    Times are those of the event loop, passed in. A `session_info_update` tells only what has changed: it is merged
    with the one that it replaces.
    """

    def __init__(self) -> None:
        self._told: dict[Key, float] = {}
        self._held: dict[Key, SystemItem] = {}

    def add(self, key: Key, item: SystemItem, now: float) -> Iterator[SystemItem]:
        """Take an update; what is to be told now."""
        before = self._held.pop(key, None)
        if before is not None and key[1] == "session_info_update":
            item = _merged(before, item)
        self._held[key] = item
        yield from self.due(now)
        if len(self._held) > MAX_HELD:
            yield self._tell(next(iter(self._held)), now)

    def due(self, now: float) -> Iterator[SystemItem]:
        """What was held back for long enough."""
        for key in tuple(self._held):
            if self._due(key) <= now:
                yield self._tell(key, now)

    def rest(self) -> Iterator[SystemItem]:
        """All that is held back."""
        while self._held:
            yield self._held.pop(next(iter(self._held)))

    @property
    def next_due(self) -> float:
        """When there is something due, infinite where nothing is held back."""
        return min(map(self._due, self._held), default=math.inf)

    def _due(self, key: Key) -> float:
        return self._told.get(key, -math.inf) + INTERVAL_S

    def _tell(self, key: Key, now: float) -> SystemItem:
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > MAX_REMEMBERED:
            del self._told[next(iter(self._told))]
        return self._held.pop(key)


def _merged(old: SystemItem, new: SystemItem) -> SystemItem:
    content = _over(old.item["content"], new.item["content"])
    return SystemItem({**new.item, "content": bounded(content)})


def _over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new object, with what only the old one has; objects in it likewise. Both are of a bounded depth."""
    both = {**old, **new}
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(before := old.get(name), dict):
            both[name] = _over(before, value)
    return both
