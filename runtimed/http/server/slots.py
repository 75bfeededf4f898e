"""Limits of connections: their number on a listener, and the bytes that they hold without a token."""

import asyncio
import logging

SILENCE_S = 60.0
"""The shortest time between two warnings about the same limit."""

CLOSING = "a limit is reached: closing the oldest connections that have shown no token"
REFUSING = "a limit is reached: refusing new connections, since all slots belong to clients with the token"

log = logging.getLogger(__name__)


class UnauthenticatedBytes:
    """Counts the bytes that connections hold before they have shown a token.

    Args:
        max_bytes: How much all of them hold together. Above that, those that have held bytes the longest are cut.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._total = 0
        self._sizes: dict[Slot, int] = {}

    def set(self, slot: "Slot", size: int) -> None:
        """Set how many bytes a connection holds, and cut connections if that exceeds the limit."""
        if not size:
            self.drop(slot)
            return
        self._total += size - self._sizes.get(slot, 0)
        self._sizes[slot] = size
        while self._total > self._max_bytes:
            next(iter(self._sizes)).cut("max_unauthenticated_bytes")

    def drop(self, slot: "Slot") -> None:
        """Forget a connection. Cuts nothing, so that `cut` may call it."""
        self._total -= self._sizes.pop(slot, 0)


class Slot:
    """The slot of one connection, from `Slots.take` until `leave`."""

    __slots__ = ("_held", "_own_bytes", "_slots", "_transport", "admitted")

    def __init__(
        self, slots: "Slots", held: UnauthenticatedBytes, transport: asyncio.Transport, own_bytes: int
    ) -> None:
        self.admitted = False
        self._slots = slots
        self._held = held
        self._transport = transport
        self._own_bytes = own_bytes

    def hold(self, size: int) -> None:
        """Set how many bytes of its client the connection holds. Does nothing once it is admitted or closing."""
        if not self.admitted and not self._transport.is_closing():
            self._held.set(self, self._own_bytes + size)

    def admit(self) -> None:
        """Note that a request on the connection had the token. From now on it is not cut to make room for others."""
        if not self.admitted:
            self.admitted = True
            self._held.drop(self)
            self._slots.admit(self)

    def cut(self, limit: str) -> None:
        """Close the connection because a limit is reached."""
        self._slots.warn(CLOSING, limit)
        self.leave()
        self._transport.abort()

    def leave(self) -> None:
        """Free the slot. May be called again."""
        self._held.drop(self)
        self._slots.leave(self)


class Slots:
    """The slots of one listener.

    Args:
        max_connections: How many there are. If all are taken, the oldest connection without a token is cut.
        held: Counts the bytes of connections that have shown no token.
    """

    def __init__(self, max_connections: int, held: UnauthenticatedBytes) -> None:
        self._max_connections = max_connections
        self._held = held
        self._waiting: dict[Slot, None] = {}
        self._admitted: set[Slot] = set()
        self._warned: dict[tuple[str, str], float] = {}

    def take(self, transport: asyncio.Transport, own_bytes: int = 0) -> Slot | None:
        """Return a slot for a new connection, or None if clients with the token have all of them.

        Args:
            transport: The connection.
            own_bytes: What it takes before its client has sent anything.
        """
        if len(self._waiting) + len(self._admitted) >= self._max_connections:
            if not self._waiting:
                self.warn(REFUSING, "max_connections")
                return None
            next(iter(self._waiting)).cut("max_connections")
        slot = Slot(self, self._held, transport, own_bytes)
        self._waiting[slot] = None
        slot.hold(0)
        return slot

    def admit(self, slot: Slot) -> None:
        """Note that a connection has shown the token."""
        if slot in self._waiting:
            del self._waiting[slot]
            self._admitted.add(slot)

    def leave(self, slot: Slot) -> None:
        """Free a slot."""
        self._waiting.pop(slot, None)
        self._admitted.discard(slot)

    def warn(self, message: str, limit: str) -> None:
        """Log that a limit is reached: each message about each limit once in SILENCE_S seconds."""
        now = asyncio.get_running_loop().time()
        if now - self._warned.get((message, limit), -SILENCE_S) >= SILENCE_S:
            self._warned[message, limit] = now
            log.warning(message, extra={"limit": limit})
