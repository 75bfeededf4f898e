"""How many connections a listener has, and how much those hold that have shown no token."""

import asyncio
import logging

SILENCE_S = 60.0
"""How long the same warning is not logged again."""

CLOSING = "%s is reached: closing the oldest connections that have shown no token"
REFUSING = "%s is reached: refusing new connections, since all slots belong to clients with the token"

log = logging.getLogger(__name__)


class Held:
    """The bytes that connections hold before they have shown a token: at most `max_bytes` of all together.

    Past that the connections that have held some for the longest are cut.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._total = 0
        self._sizes: dict[Slot, int] = {}

    def set(self, slot: "Slot", size: int) -> None:
        """Set how many bytes a connection holds, and cut others where that is too much."""
        if not size:
            self.drop(slot)
            return
        self._total += size - self._sizes.get(slot, 0)
        self._sizes[slot] = size
        while self._total > self._max_bytes:
            next(iter(self._sizes)).cut("max_unauthenticated_bytes")

    def drop(self, slot: "Slot") -> None:
        """Forget what a connection holds. Cuts nothing, so that `cut` may call it."""
        self._total -= self._sizes.pop(slot, 0)


class Slot:
    """The place of one connection among those of its listener, from `Slots.take` until `leave`."""

    __slots__ = ("_held", "_slots", "_transport", "admitted")

    def __init__(self, slots: "Slots", held: Held, transport: asyncio.Transport) -> None:
        self.admitted = False
        self._slots = slots
        self._held = held
        self._transport = transport

    def hold(self, size: int) -> None:
        """The connection holds so many bytes and has shown no token yet."""
        if not self.admitted and not self._transport.is_closing():
            self._held.set(self, size)

    def admit(self) -> None:
        """A request on the connection bore the token: it makes room for no other any more."""
        if not self.admitted:
            self.admitted = True
            self._held.drop(self)
            self._slots.admit(self)

    def cut(self, limit: str) -> None:
        """Close the connection for the sake of others."""
        self._slots.warn(CLOSING, limit)
        self.leave()
        self._transport.abort()

    def leave(self) -> None:
        """The connection is gone. Harmless when repeated."""
        self._held.drop(self)
        self._slots.leave(self)


class Slots:
    """The slots of one listener. Where all are taken the oldest connection that has shown no token is cut."""

    def __init__(self, max_connections: int, held: Held) -> None:
        self._max_connections = max_connections
        self._held = held
        self._waiting: dict[Slot, None] = {}
        self._admitted: set[Slot] = set()
        self._warned: dict[tuple[str, str], float] = {}

    def take(self, transport: asyncio.Transport) -> Slot | None:
        """A slot for a new connection; None where every one is that of a client with the token."""
        if len(self._waiting) + len(self._admitted) >= self._max_connections:
            if not self._waiting:
                self.warn(REFUSING, "max_connections")
                return None
            next(iter(self._waiting)).cut("max_connections")
        slot = Slot(self, self._held, transport)
        self._waiting[slot] = None
        return slot

    def admit(self, slot: Slot) -> None:
        """A connection has shown the token."""
        if slot in self._waiting:
            del self._waiting[slot]
            self._admitted.add(slot)

    def leave(self, slot: Slot) -> None:
        """A connection is gone."""
        self._waiting.pop(slot, None)
        self._admitted.discard(slot)

    def warn(self, message: str, limit: str) -> None:
        """Log that a limit is reached, each message about each limit once in SILENCE_S."""
        now = asyncio.get_running_loop().time()
        if now - self._warned.get((message, limit), -SILENCE_S) >= SILENCE_S:
            self._warned[message, limit] = now
            log.warning(message, limit)
