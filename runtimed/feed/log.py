"""What the readers of one Worker share."""

import asyncio
from collections.abc import Sequence

from runtimed.core.change import EncodedEvent
from runtimed.feed.ring import Ring


class Log:
    """The newest frames of one Worker, and the call that there are more. It lives while it has readers."""

    def __init__(self, floor: int, ring_bytes: int) -> None:
        self.ring = Ring(floor, ring_bytes)
        self.readers = 0
        self.closed = False
        self._called = asyncio.get_running_loop().create_future()

    def append(self, events: Sequence[EncodedEvent]) -> None:
        """Take in newer events and call the readers."""
        self.ring.append(events)
        self._call()

    def close(self) -> None:
        """There will be no more events; the readers are called to see it."""
        self.closed = True
        self._call()

    def _call(self) -> None:
        called, self._called = self._called, asyncio.get_running_loop().create_future()
        called.set_result(None)

    async def called(self) -> None:
        """Wait for the next call."""
        await asyncio.shield(self._called)
