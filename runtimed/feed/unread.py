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

    Past that the observers for which the most waits are dismissed. Those have until the next time to read why.
    Whoever writes takes the size off `room`, and calls `look` once that is used up.
    """

    def __init__(self, max_bytes: int = MAX_UNREAD_BYTES) -> None:
        self.room = max_bytes
        self._max_bytes = max_bytes
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
        self._dismissed = {one for one in self._dismissed if one.get_write_buffer_size()}
        total = coming + sum(sizes.values())
        if total + sum(one.get_write_buffer_size() for one in self._dismissed) > self._max_bytes:
            for transport in self._dismissed:
                transport.abort()
            self._dismissed.clear()
        if total > self._max_bytes:
            total = self._make_room(total, sizes)
        self.room = max(self._max_bytes - total, self._max_bytes // 64)

    def _make_room(self, total: int, sizes: dict[Reading, int]) -> int:
        """Dismiss the slowest until an eighth is free."""
        slowest = sorted(sizes, key=sizes.__getitem__, reverse=True)
        count = 0
        while total > self._max_bytes * 7 // 8 and count < len(slowest) and sizes[slowest[count]]:
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
