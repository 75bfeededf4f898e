"""What an agent was sent and has not taken yet."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

MAX_UNTAKEN_BYTES = 64 << 20
"""Bytes of messages, what it costs to keep them included, that may wait until the agent is read no further."""

MESSAGE_COST = 4096
"""Bytes that a message costs beside its own while it waits, rounded up."""


class Outbox:
    """Counts what waits to be taken, and makes others wait while that is too much."""

    def __init__(self) -> None:
        self._bytes = 0
        self._closed = False
        self._room = asyncio.Event()
        self._room.set()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count a message of so many bytes, until it was taken."""
        self._add(size + MESSAGE_COST)
        try:
            yield
        finally:
            self._add(-size - MESSAGE_COST)

    def close(self) -> None:
        """Nothing is going to be taken any more: nobody need wait for that."""
        self._closed = True
        self._room.set()

    async def room(self) -> None:
        """Wait until more may be sent."""
        await self._room.wait()

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._closed or self._bytes <= MAX_UNTAKEN_BYTES:
            self._room.set()
        else:
            self._room.clear()
