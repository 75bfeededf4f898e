"""The ring of the newest events of a log, kept in memory as encoded messages."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import attrs

from runtimed.feed.view import EVERYTHING, Selection


class Message(NamedTuple):
    """An encoded event, with the properties by which it is selected.

    Attributes:
        sequence: The sequence of the event.
        data: The event as it is written to observers.
        name: The name of its payload, such as `text_delta`.
        labels: The labels of its Worker.
    """

    sequence: int
    data: bytes
    name: str
    labels: Mapping[str, str]


@attrs.frozen
class Batch:
    """The selected events of a range.

    Attributes:
        messages: The encoded events, oldest first.
        upto: The sequence up to which the batch is complete. The next one starts after it.
    """

    messages: Sequence[bytes]
    upto: int


class Ring:
    """Holds the newest messages, within a bound of bytes.

    Attributes:
        begins_after: The sequence after which the ring holds every message.
        newest: The sequence up to which it holds every message.
    """

    def __init__(self, begins_after: int, max_bytes: int) -> None:
        """Create an empty ring.

        Args:
            begins_after: The sequence after which messages will be appended.
            max_bytes: About how many bytes of messages to hold.
        """
        self.begins_after = begins_after
        self.newest = begins_after
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: list[Message] = []

    def append(self, messages: Sequence[Message], upto: int) -> None:
        """Append all messages up to the sequence `upto`, and drop the oldest ones beyond the bound."""
        self._messages += messages
        self._bytes += sum(len(message.data) for message in messages)
        self.newest = upto
        if self._bytes > self._max_bytes:
            self._trim()

    def _trim(self) -> None:
        """Drop messages until half the bound is used, so that one move of the rest serves many appends."""
        dropped = 0
        while self._bytes > self._max_bytes // 2:
            oldest = self._messages[dropped]
            self.begins_after = oldest.sequence
            self._bytes -= len(oldest.data)
            dropped += 1
        del self._messages[:dropped]

    def between(self, after: int, upto: int, selection: Selection) -> list[bytes] | None:
        """Return selected messages with `after` < sequence <= `upto`, or None if the ring no longer holds all."""
        if after < self.begins_after:
            return None
        first = bisect_right(self._messages, after, key=_sequence)
        end = len(self._messages) if upto >= self.newest else bisect_right(self._messages, upto, key=_sequence)
        found = self._messages[first:end]
        if selection == EVERYTHING:
            return [message.data for message in found]
        return [message.data for message in found if selection.matches(message.name, message.labels)]


def _sequence(message: Message) -> int:
    return message.sequence
