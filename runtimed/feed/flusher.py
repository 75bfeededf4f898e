"""Writes what is new to every observer that has all there was before."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from runtimed.feed.encoding import Encoding
from runtimed.feed.ring import Ring
from runtimed.feed.view import Selection

SLICE = 64
"""How many observers are written to before other work has its turn."""

MAX_DELAY_S = 0.05
"""How long events wait at most for the next flush to begin."""

REST = 39
"""A flush is followed by a rest that is so many times as long as one takes, up to MAX_DELAY_S."""

JUDGED = 4
"""A flush costs what the quickest of the last JUDGED took: the loop may have done other work beside the others."""


class Waiting(Protocol):
    """An observer at the tip: it has been written everything up to `sequence` that it selects."""

    sequence: int
    selection: Selection

    def write(self, data: bytes) -> None:
        """Write whole messages."""

    @property
    def full(self) -> bool:
        """Whether too much of what was written is not sent yet."""

    def fall_behind(self) -> None:
        """It is at the tip no longer, and has to catch up by itself."""

    def end(self, error: Exception) -> None:
        """There will be no more for it."""


class Flusher:
    """The observers at the tip of one ring.

    A flush brings each of them from its own `sequence` up to the same one, with bytes that are joined once for
    all who select the same. The first event after a rest is written at once; while many come, they are collected, for
    the longer the more a flush costs.
    """

    def __init__(self, ring: Ring, encoding: Encoding) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._encoding = encoding
        self._tip: set[Waiting] = set()
        self._flushing = False
        self._upto = 0
        self._rested = 0.0
        self._costs = deque([0.0], JUDGED)
        self._ended: Exception | None = None

    def add(self, observer: Waiting) -> None:
        """An observer has read up to the newest event of the ring."""
        self._tip.add(observer)

    def discard(self, observer: Waiting) -> None:
        """An observer is gone, or never was here."""
        self._tip.discard(observer)

    def call(self) -> None:
        """There is something new."""
        if self._tip and not self._flushing:
            self._flushing = True
            self._loop.call_at(max(self._rested, self._loop.time()), self._flush)

    def end(self, error: Exception) -> None:
        """Let the observers go, once each has everything."""
        self._ended = error
        self.call()

    def _flush(self) -> None:
        self._upto = self._ring.newest
        self._step(self._slices(self._upto), time.thread_time())

    def _step(self, slices: Iterator[None], began: float) -> None:
        """The next slice, in a turn of the loop of its own."""
        for _ in slices:
            self._loop.call_soon(self._step, slices, began)
            return
        self._loop.call_soon(self._finish, began)

    def _finish(self, began: float) -> None:
        """The flush is over. It comes a turn late, so that the cost has in it what a loop writes at a turn's end."""
        self._costs.append(time.thread_time() - began)
        self._rested = self._loop.time() + min(REST * min(self._costs), MAX_DELAY_S)
        self._flushing = False
        if self._upto < self._ring.newest:
            self.call()
        elif self._ended is not None:
            for observer in tuple(self._tip):
                self._tip.discard(observer)
                observer.end(self._ended)

    def _slices(self, upto: int) -> Iterator[None]:
        joined: dict[tuple[int, Selection], bytes | None] = {}
        for count, observer in enumerate(tuple(self._tip), 1):
            if observer in self._tip and observer.sequence < upto:
                wanted = observer.sequence, observer.selection
                if wanted not in joined:
                    joined[wanted] = self._joined(*wanted, upto)
                try:
                    self._advance(observer, joined[wanted], upto)
                except Exception as error:  # noqa: BLE001 the others are still to be written to
                    self._tip.discard(observer)
                    observer.end(error)
            if not count % SLICE:
                yield

    def _advance(self, observer: Waiting, data: bytes | None, upto: int) -> None:
        if data is None or observer.full:
            self._tip.discard(observer)
            observer.fall_behind()
        else:
            observer.sequence = upto
            if data:
                observer.write(data)

    def _joined(self, after: int, selection: Selection, upto: int) -> bytes | None:
        """The messages in between, or None where the ring does not hold them all."""
        messages = self._ring.between(after, upto, selection)
        if messages is None:
            return None
        return self._encoding.join(messages) if messages else b""
