"""The newest frames of one Worker, in memory."""

from bisect import bisect_right
from collections.abc import Sequence

from runtimed.core.change import EncodedEvent
from runtimed.wire.frames import event_frame

Frame = tuple[int, bytes]
"""The sequence of an event and its frame on the wire."""


class Ring:
    """Holds at most about `max_bytes` of frames: all those behind its `floor`, and none before it."""

    def __init__(self, floor: int, max_bytes: int) -> None:
        self.floor = floor
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: list[Frame] = []

    def append(self, events: Sequence[EncodedEvent]) -> None:
        """Take in newer events; the oldest make room for them."""
        frames = [frame(event) for event in events]
        self._frames += frames
        self._bytes += sum(len(data) for _, data in frames)
        if self._bytes > self._max_bytes:
            self._trim()

    def _trim(self) -> None:
        """Halve it, so that moving the rest up is paid for by many appends."""
        dropped = 0
        while self._bytes > self._max_bytes // 2:
            self.floor, data = self._frames[dropped]
            self._bytes -= len(data)
            dropped += 1
        del self._frames[:dropped]

    def after(self, sequence: int, limit: int) -> list[Frame] | None:
        """At most `limit` frames behind a sequence, or None where the ring begins later."""
        if sequence < self.floor:
            return None
        start = bisect_right(self._frames, sequence, key=_sequence)
        return self._frames[start : start + limit]


def frame(event: EncodedEvent) -> Frame:
    """An event as it goes over the wire."""
    return event.sequence, event_frame(event.sequence, event.worker_id, event.payload)


def _sequence(entry: Frame) -> int:
    return entry[0]
