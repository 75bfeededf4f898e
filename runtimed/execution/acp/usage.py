"""Find the token counts of a run, wherever an agent puts them.

Input includes what came from a cache, and output includes thoughts. Agents count in two ways; a total tells which, or
else the names of the counts.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from runtimed.model.event import Cost, Usage

MAX_COUNT = 2**63 - 1
"""The largest count that is passed on."""

MAX_CURRENCY = 16
MAX_LOOKED_AT = 64
"""The most objects that are searched for token counts."""

_INPUT = ("inputTokens", "input_tokens", "promptTokens", "prompt_tokens", "promptTokenCount")
_OUTPUT = ("outputTokens", "output_tokens", "completionTokens", "completion_tokens", "candidatesTokenCount")
_TOTAL = ("totalTokens", "total_tokens", "totalTokenCount")
_CACHED = (
    "cachedReadTokens",
    "cache_read_input_tokens",
    "cacheReadTokens",
    "cachedTokens",
    "cachedContentTokenCount",
)
_CACHE_WRITTEN = ("cachedWriteTokens", "cache_creation_input_tokens", "cacheWriteTokens")
_THOUGHT = ("thoughtTokens", "thought_tokens", "thoughtsTokenCount", "reasoningTokens", "reasoning_tokens")
_BESIDE = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens", "thoughtsTokenCount"})
"""Counts that are not part of the input or output count, by the convention of their providers."""


class UsageTally:
    """The counts of one run: those in `_meta` are of one model call each, those of a `usage_update` of the run.

    A `usage_update` also says how full the context is, and what the session has cost; the last one counts.
    """

    def __init__(self) -> None:
        self._sum: Usage | None = None
        self._last: Usage | None = None
        self._context: dict[str, int] = {}
        self._cost: Cost | None = None

    def note(self, value: Mapping[str, Any]) -> None:
        """Take a session update."""
        if value.get("sessionUpdate") == "usage_update":
            self._last = find_usage(value) or self._last
            self._context |= _context(value)
            self._cost = _cost(value.get("cost")) or self._cost
        elif found := find_usage(value.get("_meta")):
            self._sum = _added(self._sum, found)

    def spent(self, response: Mapping[str, Any]) -> Iterator[Usage]:
        """Yield the usage of a run, if anything is known; counts in the response take precedence."""
        found = find_usage(response.get("usage")) or find_usage(response.get("_meta"))
        usage = found or self._last or self._sum
        if usage or self._context or self._cost:
            usage = usage or Usage(None, None, source="agent")
            tokens, window = self._context.get("used"), self._context.get("size")
            yield attrs.evolve(usage, context_tokens=tokens, context_window=window, cost=self._cost)
        self._sum = self._last = self._cost = None
        self._context = {}


def find_usage(value: object) -> Usage | None:
    """Return the counts of the first object, breadth first, with input or output tokens; None if there is none."""
    waiting = deque([value])
    for _ in range(MAX_LOOKED_AT):
        if not waiting:
            break
        found = waiting.popleft()
        if isinstance(found, Mapping):
            if usage := _usage(found):
                return usage
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return None


def _context(update: Mapping[str, Any]) -> dict[str, int]:
    """Return how full the context is: its `used` and its `size`, as far as an update tells."""
    found = {name: _count(update, (name,)) for name in ("used", "size")}
    return {name: count for name, count in found.items() if count is not None}


def _cost(given: object) -> Cost | None:
    if not isinstance(given, Mapping):
        return None
    amount, currency = given.get("amount"), given.get("currency")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
        return None
    return Cost(float(amount), currency[:MAX_CURRENCY]) if isinstance(currency, str) and currency else None


def _usage(found: Mapping[str, Any]) -> Usage | None:
    taken, given = _count(found, _INPUT), _count(found, _OUTPUT)
    if taken is None and given is None:
        return None
    read = _count(found, _CACHED)
    cached = (read or 0) + (_count(found, _CACHE_WRITTEN) or 0)
    thought = _count(found, _THOUGHT) or 0
    if (total := _count(found, _TOTAL)) is not None:
        rest = total - (taken or 0) - (given or 0)
        cached_beside, thought_beside = rest in {cached, cached + thought}, rest in {thought, cached + thought}
    else:
        cached_beside = cached > (taken or 0) or not _BESIDE.isdisjoint(found.keys() & {*_CACHED, *_CACHE_WRITTEN})
        thought_beside = not _BESIDE.isdisjoint(found.keys() & set(_THOUGHT))
    if taken is not None and cached_beside:
        taken += cached
    if given is not None and thought_beside:
        given += thought
    return Usage(taken, given, read, source="agent")


def _added(one: Usage | None, other: Usage) -> Usage:
    if one is None:
        return other
    return Usage(
        _sum(one.input_tokens, other.input_tokens),
        _sum(one.output_tokens, other.output_tokens),
        _sum(one.cache_read_input_tokens, other.cache_read_input_tokens),
        source=other.source,
    )


def _sum(*counts: int | None) -> int | None:
    value = [count for count in counts if count is not None]
    return sum(value) if value else None


def _count(value: Mapping[str, Any], names: Iterable[str]) -> int | None:
    for name in names:
        count = value.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_COUNT:
            return count
    return None
