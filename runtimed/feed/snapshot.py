"""The bound of a snapshot: parts that do not fit into one frame are shortened, and the newest data is kept."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
import orjson

from runtimed.model.event import EventEnvelope, Greeting, InFlight, InFlightBlock, Snapshot, ToolCallBlock
from runtimed.model.permission import Permission
from runtimed.wire.converter import encode

MAX_SCOPE_BYTES = 4 * 2**10
"""The bytes that are shown of a Worker's scope summary, from its beginning (contract, section 6)."""

MAX_BLOCK_BYTES = 64 * 2**10
"""The bytes that are shown of an open text, thought or arguments, up to its end (contract, section 6)."""

MIN_SNAPSHOT_BYTES = 64 * 2**10
"""The lowest bound that can be set. A Worker's greeting fits into it in any case."""

FRAMING_BYTES = 256
"""The most bytes that an encoding adds to an envelope, rounded up."""

T = TypeVar("T")


def bounded(envelope: EventEnvelope, max_bytes: int) -> EventEnvelope:
    """Return a snapshot that takes at most `max_bytes` when it is encoded.

    Each part takes what those before it leave: the greeting, the permission requests, open output, and the newest
    entries that fit, each of them whole.

    Args:
        envelope: The whole snapshot.
        max_bytes: The largest frame in bytes, at least MIN_SNAPSHOT_BYTES.
    """
    whole = envelope.payload
    if not isinstance(whole, Snapshot):
        return envelope

    def room(shown: Snapshot) -> int:
        return max_bytes - FRAMING_BYTES - len(encode(attrs.evolve(envelope, payload=shown)))

    shown = attrs.evolve(
        whole,
        entries=(),
        greeting=_greeting(whole.greeting, max_bytes // 16),
        in_flight=None,
        permissions=_permissions(whole.permissions, max_bytes // 4),
    )
    shown = attrs.evolve(shown, in_flight=_in_flight(whole.in_flight, room(shown)))
    return attrs.evolve(envelope, payload=attrs.evolve(shown, entries=_newest(whole.entries, room(shown))))


def _newest(items: Sequence[T], room: int) -> tuple[T, ...]:
    """Return the newest items that fit, with a comma after each. Stops at the first one that does not."""
    kept: list[T] = []
    for item in reversed(items):
        room -= len(encode(item)) + 1
        if room < 0:
            break
        kept.append(item)
    return tuple(reversed(kept))


def _greeting(greeting: Greeting, room: int) -> Greeting:
    scope = greeting.scope_summary[:MAX_SCOPE_BYTES].encode()[:MAX_SCOPE_BYTES].decode(errors="ignore")
    scope = scope[: _fitting(len(scope), lambda length: _encoded(scope[:length]) <= room)]
    return attrs.evolve(greeting, scope_summary=scope, tools=tuple(_first(greeting.tools, room)))


def _first(texts: Iterable[str], room: int) -> Iterable[str]:
    for text in texts:
        room -= len(orjson.dumps(text)) + 1
        if room < 0:
            return
        yield text


def _permissions(permissions: Sequence[Permission], room: int) -> tuple[Permission, ...]:
    """Return the newest requests. One that takes more than its share is shown with the beginning of its title."""
    share = room // max(1, len(permissions)) - 1
    return _newest([_cut_title(permission, share) for permission in permissions], room)


def _cut_title(permission: Permission, share: int) -> Permission:
    title = permission.title
    room = share - len(encode(attrs.evolve(permission, title="")))
    return attrs.evolve(permission, title=title[: _fitting(len(title), lambda n: _encoded(title[:n]) <= room)])


def _in_flight(in_flight: InFlight | None, room: int) -> InFlight | None:
    if in_flight is None:
        return None
    kept: list[InFlightBlock] = []
    for block in reversed(in_flight.blocks):
        around = len(encode(_with(block, ""), InFlightBlock)) + len(',"truncated":true,')
        if around <= room:
            end = _end(_text(block), room - around)
            room -= around + _encoded(end)
            kept.append(_with(block, end))
    return InFlight(tuple(reversed(kept))) if kept else None


def _text(block: InFlightBlock) -> str:
    return block.args if isinstance(block, ToolCallBlock) else block.text


def _with(block: InFlightBlock, text: str) -> InFlightBlock:
    truncated = len(text) < len(_text(block))
    changes: dict[str, Any] = {"args" if isinstance(block, ToolCallBlock) else "text": text, "truncated": truncated}
    return attrs.evolve(block, **changes)


def _end(text: str, room: int) -> str:
    """Return the end of a text, at most MAX_BLOCK_BYTES long and at most `room` bytes when encoded."""
    end = text[-MAX_BLOCK_BYTES:].encode()[-MAX_BLOCK_BYTES:].decode(errors="ignore")
    return end[len(end) - _fitting(len(end), lambda length: _encoded(end[len(end) - length :]) <= room) :]


def _fitting(longest: int, fits: Callable[[int], bool]) -> int:
    """Return the greatest length up to `longest` that fits, or 0."""
    if fits(longest):
        return longest
    shorter, exceeds = 0, longest
    while shorter < exceeds - 1:
        middle = (shorter + exceeds) // 2
        if fits(middle):
            shorter = middle
        else:
            exceeds = middle
    return shorter


def _encoded(text: str) -> int:
    """Return the bytes that a text takes in JSON, without its quotation marks."""
    return len(orjson.dumps(text)) - 2
