"""Messages that an agent has not read yet."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

MAX_UNTAKEN_BYTES = 64 << 20
"""The most bytes of unread messages, with MESSAGE_COST for each; beyond it the agent is not read."""

MESSAGE_COST = 4096
"""Bytes of memory that a waiting message uses besides its text, rounded up."""


class Outbox:
    """Count the bytes of unread messages, and make others wait while there are too many."""

    def __init__(self) -> None:
        self._bytes = 0
        self._closed = False
        self._room = asyncio.Event()
        self._room.set()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count a message of this many bytes while the block runs."""
        self._add(size + MESSAGE_COST)
        try:
            yield
        finally:
            self._add(-size - MESSAGE_COST)

    def close(self) -> None:
        """Release all waiting callers: the agent reads no more messages."""
        self._closed = True
        self._room.set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._closed or self._bytes <= MAX_UNTAKEN_BYTES:
            self._room.set()
        else:
            self._room.clear()
