"""The newest events of what is observed, in memory, as they go over the wire."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import attrs

from runtimed.feed.view import EVERYTHING, Selection


class Message(NamedTuple):
    """The sequence of an event, its bytes on the wire, and what it is selected by."""

    sequence: int
    data: bytes
    name: str
    labels: Mapping[str, str]


@attrs.frozen
class Batch:
    """Consecutive events: the messages of those that are shown, and the sequence up to which this tells all."""

    messages: Sequence[bytes]
    upto: int


class Ring:
    """Holds at most about `max_bytes` of messages: those behind `begins_after`, up to `newest`."""

    def __init__(self, begins_after: int, max_bytes: int) -> None:
        self.begins_after = begins_after
        self.newest = begins_after
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: list[Message] = []

    def append(self, messages: Sequence[Message], upto: int) -> None:
        """Take in newer messages, which are all there are up to a sequence; the oldest make room for them."""
        self._messages += messages
        self._bytes += sum(len(message.data) for message in messages)
        self.newest = upto
        if self._bytes > self._max_bytes:
            self._trim()

    def _trim(self) -> None:
        """Halve it, so that moving the rest up is paid for by many appends."""
        dropped = 0
        while self._bytes > self._max_bytes // 2:
            oldest = self._messages[dropped]
            self.begins_after = oldest.sequence
            self._bytes -= len(oldest.data)
            dropped += 1
        del self._messages[:dropped]

    def between(self, after: int, upto: int, selection: Selection) -> list[bytes] | None:
        """The selected messages with `after` < sequence <= `upto`, or None where the ring begins later."""
        if after < self.begins_after:
            return None
        first = bisect_right(self._messages, after, key=_sequence)
        end = len(self._messages) if upto >= self.newest else bisect_right(self._messages, upto, key=_sequence)
        found = self._messages[first:end]
        if selection == EVERYTHING:
            return [message.data for message in found]
        return [message.data for message in found if selection.takes(message.name, message.labels)]


def _sequence(message: Message) -> int:
    return message.sequence
