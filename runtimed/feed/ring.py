"""The newest events of what is observed, in memory, as they go over the wire."""

from bisect import bisect_right
from collections.abc import Sequence

import attrs

Message = tuple[int, bytes]
"""The sequence of an event and its bytes on the wire."""


@attrs.frozen
class Batch:
    """Consecutive events: the messages of those that are shown, and the sequence up to which this tells all."""

    messages: Sequence[bytes]
    upto: int


class Ring:
    """Holds at most about `max_bytes` of messages: all those behind its `floor` up to its `newest`, none before."""

    def __init__(self, floor: int, max_bytes: int) -> None:
        self.floor = floor
        self.newest = floor
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: list[Message] = []

    def append(self, messages: Sequence[Message], upto: int) -> None:
        """Take in newer messages, which are all there are up to a sequence; the oldest make room for them."""
        self._messages += messages
        self._bytes += sum(len(data) for _, data in messages)
        self.newest = upto
        if self._bytes > self._max_bytes:
            self._trim()

    def _trim(self) -> None:
        """Halve it, so that moving the rest up is paid for by many appends."""
        dropped = 0
        while self._bytes > self._max_bytes // 2:
            self.floor, data = self._messages[dropped]
            self._bytes -= len(data)
            dropped += 1
        del self._messages[:dropped]

    def between(self, after: int, upto: int) -> list[bytes] | None:
        """The messages with `after` < sequence <= `upto`, or None where the ring begins later."""
        if after < self.floor:
            return None
        first = bisect_right(self._messages, after, key=_sequence)
        end = len(self._messages) if upto >= self.newest else bisect_right(self._messages, upto, key=_sequence)
        return [data for _, data in self._messages[first:end]]


def _sequence(message: Message) -> int:
    return message[0]
