"""Text that a Worker streams: its deltas, and the end of each block."""

import codecs
import io
from collections.abc import Iterator

from runtimed.core.limits import Limits
from runtimed.core.ports import EventSink
from runtimed.model.event import TextDelta, TextDone, ThinkingDelta, ThinkingDone

MAX_TEXT_BLOCK = 1 << 20
"""The most bytes of UTF-8 in a text_done, and so in a transcript entry; a longer text is cut into several."""

MAX_CHARACTERS = Limits().max_open_text
"""The most characters of an open text, unless the Spawn sets another limit."""

MAX_DELTA_CHARACTERS = 1 << 14

QUIET_S = 0.1
"""How long a program must be silent between two runs before its open text is closed."""

Delta = TextDelta | ThinkingDelta
Done = TextDone | ThinkingDone


class OpenText:
    """Turns a growing text or thought into events. A text that grows too long is cut into several.

    Bytes are decoded as UTF-8, invalid ones as U+FFFD. A character may arrive in two pieces.

    Args:
        delta: The type of the events that carry a piece.
        done: The type of the event that ends a text.
        max_characters: The most characters of one text.
    """

    def __init__(
        self, delta: type[Delta] = TextDelta, done: type[Done] = TextDone, max_characters: int = MAX_CHARACTERS
    ) -> None:
        self._delta = delta
        self._done = done
        self._max_characters = max_characters
        self._characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._block = io.StringIO()
        self._size = 0

    @property
    def is_open(self) -> bool:
        """Whether text was emitted that has no end yet."""
        return self._size > 0

    def write(self, text: str) -> Iterator[Delta | Done]:
        """Yield the events of more text."""
        for piece in _pieces(text, min(self._max_characters, MAX_DELTA_CHARACTERS)):
            size = len(piece.encode())
            if self._size + size > MAX_TEXT_BLOCK or self._characters + len(piece) > self._max_characters:
                yield self._finish()
            self._block.write(piece)
            self._size += size
            self._characters += len(piece)
            yield self._delta(piece)

    def feed(self, data: bytes) -> Iterator[Delta | Done]:
        """Yield the events of more bytes."""
        return self.write(self._decoder.decode(data))

    def close(self) -> Iterator[Delta | Done]:
        """Yield the event that ends the text, if one is open."""
        yield from self.write(self._decoder.decode(b"", final=True))
        if self._size:
            yield self._finish()

    def forget(self) -> None:
        """Drop the open text, whose end was emitted elsewhere."""
        self._decoder.reset()
        self._block, self._size, self._characters = io.StringIO(), 0, 0

    def _finish(self) -> Done:
        text = self._block.getvalue()
        self._block, self._size, self._characters = io.StringIO(), 0, 0
        return self._done(text)


class TextOutput:
    """An OpenText that emits its events to a sink."""

    def __init__(self, sink: EventSink, max_characters: int = MAX_CHARACTERS) -> None:
        self._sink = sink
        self._text = OpenText(max_characters=max_characters)

    @property
    def is_open(self) -> bool:
        """Whether text was emitted that has no end yet."""
        return self._text.is_open

    async def write(self, text: str) -> None:
        """Emit more of the open text, or begin one."""
        for event in self._text.write(text):
            await self._sink.emit(event)

    async def feed(self, data: bytes) -> None:
        """Emit more bytes of the open text, or begin one."""
        for event in self._text.feed(data):
            await self._sink.emit(event)

    async def close(self) -> None:
        """Emit `text_done`, if a text is open."""
        for event in self._text.close():
            await self._sink.emit(event)


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
