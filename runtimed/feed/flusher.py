"""The flusher: writes new events to the synced observers of a log in batches."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from runtimed.feed.encoding import Encoding
from runtimed.feed.ring import Ring
from runtimed.feed.view import Selection

SLICE_OBSERVERS = 64
"""The observers that are written to before the event loop does other work."""

MAX_DELAY_S = 0.05
"""The longest time that events wait for the next flush to begin."""

REST_FACTOR = 39
"""After a flush comes a rest of REST_FACTOR times its cost, at most MAX_DELAY_S."""

RECENT_FLUSHES = 4
"""The cost of a flush is the lowest of this many: the event loop may have done other work during the others."""


class SyncedObserver(Protocol):
    """An observer that has been written every selected event of a log.

    Attributes:
        sequence: The sequence up to which it has been written everything.
        selection: Which events it is written.
    """

    sequence: int
    selection: Selection

    def write(self, data: bytes) -> None:
        """Write whole messages."""

    @property
    def is_full(self) -> bool:
        """Whether its transport holds too many unsent bytes."""

    def unsync(self) -> None:
        """Leave the synced group. From now on the observer itself reads the events that it lacks."""

    def end(self, error: Exception) -> None:
        """Handle the reason why nothing more will be written."""


class Flusher:
    """Writes new events of one ring to its synced observers.

    A flush brings each observer from its own `sequence` to the newest event. Observers that need the same events
    share the joined bytes. The first event after a rest is written at once. Events that arrive during a rest are
    collected; the rest is longer the more a flush costs.
    """

    def __init__(self, ring: Ring, encoding: Encoding) -> None:
        """Write the messages of a ring, joined by an encoding."""
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._encoding = encoding
        self._synced: set[SyncedObserver] = set()
        self._is_flushing = False
        self._upto = 0
        self._rests_until = 0.0
        self._costs_s = deque([0.0], RECENT_FLUSHES)
        self._ended: Exception | None = None

    def add(self, observer: SyncedObserver) -> None:
        """Add an observer that has been written everything up to the newest event of the ring."""
        self._synced.add(observer)

    def discard(self, observer: SyncedObserver) -> None:
        """Remove an observer. Does nothing for an unknown one."""
        self._synced.discard(observer)

    def schedule(self) -> None:
        """Schedule a flush: the ring has events that synced observers lack."""
        if self._synced and not self._is_flushing:
            self._is_flushing = True
            self._loop.call_at(max(self._rests_until, self._loop.time()), self._flush)

    def end(self, error: Exception) -> None:
        """End all observers with a reason once each has been written everything."""
        self._ended = error
        self.schedule()

    def _flush(self) -> None:
        self._upto = self._ring.newest
        self._step(self._slices(self._upto), time.thread_time())

    def _step(self, slices: Iterator[None], began: float) -> None:
        """Write one slice of the flush, and schedule the next."""
        for _ in slices:
            self._loop.call_soon(self._step, slices, began)
            return
        self._loop.call_soon(self._finish, began)

    def _finish(self, began: float) -> None:
        """End the flush one loop iteration later, because an event loop may write at the end of an iteration."""
        self._costs_s.append(time.thread_time() - began)
        self._rests_until = self._loop.time() + min(REST_FACTOR * min(self._costs_s), MAX_DELAY_S)
        self._is_flushing = False
        if self._upto < self._ring.newest:
            self.schedule()
        elif self._ended is not None:
            for observer in tuple(self._synced):
                self._synced.discard(observer)
                observer.end(self._ended)

    def _slices(self, upto: int) -> Iterator[None]:
        joined: dict[tuple[int, Selection], bytes | None] = {}
        for count, observer in enumerate(tuple(self._synced), 1):
            if observer in self._synced and observer.sequence < upto:
                key = observer.sequence, observer.selection
                if key not in joined:
                    joined[key] = self._joined(*key, upto)
                try:
                    self._advance(observer, joined[key], upto)
                except Exception as error:  # noqa: BLE001 one failing transport must not stop the flush
                    self._synced.discard(observer)
                    observer.end(error)
            if not count % SLICE_OBSERVERS:
                yield

    def _advance(self, observer: SyncedObserver, data: bytes | None, upto: int) -> None:
        if data is None or observer.is_full:
            self._synced.discard(observer)
            observer.unsync()
        else:
            observer.sequence = upto
            if data:
                observer.write(data)

    def _joined(self, after: int, selection: Selection, upto: int) -> bytes | None:
        """Return the selected messages of a range, joined, or None if the ring no longer holds all."""
        messages = self._ring.between(after, upto, selection)
        if messages is None:
            return None
        return self._encoding.join(messages) if messages else b""
