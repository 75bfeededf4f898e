"""The limit on bytes that wait in memory for all observers together."""

import asyncio
import logging
from typing import Protocol

from runtimed.errors import Unavailable

MAX_UNREAD_BYTES = 256 * 2**20
"""The bytes that may wait in memory for all observers together, unless another bound is set."""

WARNING_INTERVAL_S = 60.0
"""The shortest time between two warnings about observers that were closed."""

TOO_SLOW = "observers have left more unread than max_unread_bytes, and this one is among the slowest; read faster"

log = logging.getLogger(__name__)


class CountedObserver(Protocol):
    """An observer whose unsent bytes are counted.

    Attributes:
        transport: Holds the unsent bytes.
    """

    transport: asyncio.WriteTransport

    def dismiss(self, error: Exception) -> None:
        """Report the reason, and write no more events."""


class Unread:
    """Bounds the bytes that were written to observers and wait in this process, at about `max_bytes`.

    Above seven eighths of the bound the observers with the most unread bytes are dismissed: each receives the reason
    and no more events. The last eighth holds the unread bytes of dismissed observers. If those need more, their
    connections are cut.

    Attributes:
        room: The bytes that may be written before the next count. A writer subtracts what it writes, and calls
            `recount` when the result is negative.
    """

    def __init__(self, max_bytes: int = MAX_UNREAD_BYTES) -> None:
        """Start without observers, with a bound in bytes."""
        self._max_bytes = max_bytes
        self._max_observed_bytes = max_bytes * 7 // 8
        self.room = self._max_observed_bytes
        self._observers: set[CountedObserver] = set()
        self._dismissed: set[asyncio.WriteTransport] = set()
        self._warned_at = -WARNING_INTERVAL_S

    def enter(self, observer: CountedObserver) -> None:
        """Start counting an observer."""
        self._observers.add(observer)

    def leave(self, observer: CountedObserver) -> None:
        """Stop counting an observer, except for bytes that it has not read yet. Does nothing for an unknown one."""
        if observer in self._observers:
            self._observers.discard(observer)
            if observer.transport.get_write_buffer_size():
                self._dismissed.add(observer.transport)

    def recount(self, coming: int) -> None:
        """Count all unread bytes, and dismiss observers if there are too many.

        Args:
            coming: The bytes that are about to be written.
        """
        sizes = {observer: observer.transport.get_write_buffer_size() for observer in self._observers}
        total = coming + sum(sizes.values())
        dismissed = self._count_dismissed()
        if total + dismissed > self._max_bytes:
            for transport in self._dismissed:
                transport.abort()
            self._dismissed.clear()
            dismissed = 0
        if total > self._max_observed_bytes:
            total = self._make_room(total, sizes)
            dismissed = self._count_dismissed()
        room = min(self._max_observed_bytes - total, self._max_bytes - total - dismissed)
        self.room = max(room, self._max_bytes // 64)

    def _count_dismissed(self) -> int:
        """Forget dismissed observers that have read everything, and return the unread bytes of the others."""
        waiting = {transport: transport.get_write_buffer_size() for transport in self._dismissed}
        self._dismissed = {transport for transport, size in waiting.items() if size}
        return sum(waiting.values())

    def _make_room(self, total: int, sizes: dict[CountedObserver, int]) -> int:
        """Dismiss the slowest observers until a quarter of the bound is free. Returns what the others hold."""
        slowest = sorted(sizes, key=sizes.__getitem__, reverse=True)
        count = 0
        while total > self._max_bytes * 3 // 4 and count < len(slowest) and sizes[slowest[count]]:
            observer = slowest[count]
            total -= sizes[observer]
            count += 1
            self.leave(observer)
            observer.dismiss(Unavailable(TOO_SLOW))
        self._warn(count)
        return total

    def _warn(self, count: int) -> None:
        now = asyncio.get_running_loop().time()
        if count and now - self._warned_at >= WARNING_INTERVAL_S:
            self._warned_at = now
            log.warning("closed the slowest observers: max_unread_bytes is reached", extra={"count": count})
