"""Token counts, wherever an agent put them."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from runtimed.model.event import Usage

MAX_LOOKED_AT = 64
"""How many objects are looked into for token counts."""

_INPUT = ("inputTokens", "input_tokens", "promptTokens", "prompt_tokens", "promptTokenCount")
_OUTPUT = ("outputTokens", "output_tokens", "completionTokens", "completion_tokens", "candidatesTokenCount")
_CACHED = (
    "cachedReadTokens",
    "cache_read_input_tokens",
    "cacheReadTokens",
    "cachedTokens",
    "cachedContentTokenCount",
)


def find_usage(told: object) -> Usage | None:
    """The counts in the first object, breadth first, that has one of input or output tokens; None where none has."""
    waiting = deque([told])
    for _ in range(MAX_LOOKED_AT):
        if not waiting:
            break
        found = waiting.popleft()
        if isinstance(found, Mapping):
            usage = Usage(_count(found, _INPUT), _count(found, _OUTPUT), _count(found, _CACHED))
            if usage.input_tokens is not None or usage.output_tokens is not None:
                return usage
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return None


def _count(told: Mapping[str, Any], names: Iterable[str]) -> int | None:
    for name in names:
        count = told.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            return count
    return None
