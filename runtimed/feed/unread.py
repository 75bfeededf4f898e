"""How much observers have left unread, all together."""

import asyncio
import logging
from typing import Protocol

from runtimed.errors import Unavailable

MAX_UNREAD_BYTES = 256 * 2**20
SILENCE_S = 60.0
"""How long nothing more is logged about observers that are closed."""

log = logging.getLogger(__name__)


class Reading(Protocol):
    """An observer, as far as it is counted."""

    transport: asyncio.WriteTransport

    def dismiss(self, error: Exception) -> None:
        """Write nothing more to it but why."""


class Unread:
    """The bytes that were written to observers and wait in this process, at most about `max_bytes`.

    Past seven eighths the observers with the most unread bytes are dismissed: they are told why, and get nothing
    more. The last eighth is for those: if it is used up before they have read why, their connections are cut.
    A writer subtracts what it writes from `room`, and calls `look` when that is negative.
    """

    def __init__(self, max_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._max_bytes = max_bytes
        self._max_observed_bytes = max_bytes * 7 // 8
        self.room = self._max_observed_bytes
        self._observers: set[Reading] = set()
        self._dismissed: set[asyncio.WriteTransport] = set()
        self._told = -SILENCE_S

    def enter(self, observer: Reading) -> None:
        """Count an observer."""
        self._observers.add(observer)

    def leave(self, observer: Reading) -> None:
        """Count an observer no more, but for what it is still to read. Harmless when repeated."""
        if observer in self._observers:
            self._observers.discard(observer)
            if observer.transport.get_write_buffer_size():
                self._dismissed.add(observer.transport)

    def look(self, coming: int) -> None:
        """Count all there is, with what is about to be written, and make room where it is too much."""
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
        """Forget the dismissed observers that have read everything, and return what the others have not."""
        waiting = {transport: transport.get_write_buffer_size() for transport in self._dismissed}
        self._dismissed = {transport for transport, size in waiting.items() if size}
        return sum(waiting.values())

    def _make_room(self, total: int, sizes: dict[Reading, int]) -> int:
        """Dismiss the slowest until a quarter is free."""
        slowest = sorted(sizes, key=sizes.__getitem__, reverse=True)
        count = 0
        while total > self._max_bytes * 3 // 4 and count < len(slowest) and sizes[slowest[count]]:
            observer = slowest[count]
            total -= sizes[observer]
            count += 1
            self.leave(observer)
            observer.dismiss(
                Unavailable("observers have left too much unread (max_unread_bytes), this one the most; read faster")
            )
        self._tell(count)
        return total

    def _tell(self, count: int) -> None:
        now = asyncio.get_running_loop().time()
        if count and now - self._told >= SILENCE_S:
            self._told = now
            log.warning("closed the %d slowest observers: max_unread_bytes is reached", count)
