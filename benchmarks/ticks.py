"""The events that are sent around: what one is, when it is due, and the order for a series of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import attrs

MARK = b'"tick","n":'
BEFORE_TIME = b',"at":'
END = b',"padding"'
"""What is around the number and the time of a tick in its frame. MARK and END occur in no other frame."""

PAYLOAD_BYTES = 300
"""What the payload of one event has, about: the size that the targets are given for."""

_AROUND = len('{"event":"system_item","data":{"item":{"kind":"tick","n":123456,"at":1234567890123456,"padding":""}}}')
_PADDING = "x" * (PAYLOAD_BYTES - _AROUND)


def tick(number: int, at: float) -> dict[str, Any]:
    """The item of one event that is due at a time of CLOCK_MONOTONIC, which all processes share."""
    return {"kind": "tick", "n": number, "at": int(at * 1e9), "padding": _PADDING}


@attrs.frozen
class Series:
    """`count` ticks numbered from 0, `rate` of them a second; a rate of 0 is as fast as they are taken."""

    count: int
    rate: int = 0

    @classmethod
    def parse(cls, order: str) -> Self | None:
        """The series that an input orders, None where it orders nothing."""
        word, *numbers = order.split(" ")
        return cls(*map(int, numbers)) if word == "emit" else None

    def order(self) -> str:
        """The input that orders this series."""
        return f"emit {self.count} {self.rate}"

    async def ticks(self) -> AsyncIterator[dict[str, Any]]:
        """Each tick when it is due. Whoever is late gets what it has missed at once, and the delay shows in them."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        for number in range(self.count):
            due = began + number / self.rate if self.rate else time.monotonic()
            wait = due - time.monotonic()
            if wait > 0:
                turn = loop.create_future()  # half of what asyncio.sleep costs, which is a tenth of what is measured
                loop.call_later(wait, turn.set_result, None)
                await turn
            yield tick(number, due)
