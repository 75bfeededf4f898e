"""Ticks: the events of the feed benchmarks, when they are due, and the order for a series of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import attrs

MARK = b'"tick","n":'
BEFORE_TIME = b',"at":'
END = b',"padding"'
"""The bytes around the number and the time of a tick in its frame. MARK and END occur in no other frame."""

PAYLOAD_BYTES = 300
"""The approximate size of the payload of one event. The targets are for this size."""

_AROUND = len('{"event":"system_item","data":{"item":{"kind":"tick","n":123456,"at":1234567890123456,"padding":""}}}')
_PADDING = "x" * (PAYLOAD_BYTES - _AROUND)


def tick(number: int, at: float) -> dict[str, Any]:
    """Return the item of one event that is due at a CLOCK_MONOTONIC time."""
    return {"kind": "tick", "n": number, "at": int(at * 1e9), "padding": _PADDING}


@attrs.frozen
class Series:
    """A series of ticks.

    Attributes:
        count: How many ticks. Their numbers start at 0.
        rate: Ticks a second, or 0 for as fast as possible.
    """

    count: int
    rate: int = 0

    @classmethod
    def parse(cls, order: str) -> Self | None:
        """Return the series that an input orders, or None."""
        word, *numbers = order.split(" ")
        return cls(*map(int, numbers)) if word == "emit" else None

    def order(self) -> str:
        """Return the input that orders this series."""
        return f"emit {self.count} {self.rate}"

    async def ticks(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each tick when it is due. A late reader gets the missed ticks at once, and their delays show it."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        for number in range(self.count):
            due = began + number / self.rate if self.rate else time.monotonic()
            wait = due - time.monotonic()
            if wait > 0:
                waiter = loop.create_future()  # half the cost of asyncio.sleep, which is a tenth of the figure
                loop.call_later(wait, waiter.set_result, None)
                await waiter
            yield tick(number, due)
