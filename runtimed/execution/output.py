"""The text that a Worker streams."""

import codecs
import io
from collections.abc import Iterator

from runtimed.core.limits import Limits
from runtimed.core.ports import EventSink
from runtimed.model.event import TextDelta, TextDone, ThinkingDelta, ThinkingDone

MAX_TEXT_BLOCK = 1 << 20
"""Bytes of UTF-8 in a text_done, and so in an entry of the transcript; a longer text is cut into several."""

MAX_CHARACTERS = Limits().max_open_text
"""Characters of a text that may be open, where nothing else is said."""

MAX_DELTA_CHARACTERS = 1 << 14

QUIET_S = 0.1
"""How long a program says nothing between two runs until the text that it has begun is closed."""

Delta = TextDelta | ThinkingDelta
Done = TextDone | ThinkingDone


class OpenText:
    """A text that is being written, or a thought: the events that tell of it, cut where it grows too long.

    Bytes are read as UTF-8; what is not becomes U+FFFD. A character may come in two pieces.
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
        """Whether there is any text that was not ended."""
        return self._size > 0

    def write(self, text: str) -> Iterator[Delta | Done]:
        """What tells of more text."""
        for piece in _pieces(text, min(self._max_characters, MAX_DELTA_CHARACTERS)):
            size = len(piece.encode())
            if self._size + size > MAX_TEXT_BLOCK or self._characters + len(piece) > self._max_characters:
                yield self._finish()
            self._block.write(piece)
            self._size += size
            self._characters += len(piece)
            yield self._delta(piece)

    def feed(self, data: bytes) -> Iterator[Delta | Done]:
        """The same for bytes as they come."""
        return self.write(self._decoder.decode(data))

    def close(self) -> Iterator[Delta | Done]:
        """What tells of its end, where there is any text."""
        yield from self.write(self._decoder.decode(b"", final=True))
        if self._size:
            yield self._finish()

    def forget(self) -> None:
        """Its end was told by somebody else."""
        self._decoder.reset()
        self._block, self._size, self._characters = io.StringIO(), 0, 0

    def _finish(self) -> Done:
        text = self._block.getvalue()
        self._block, self._size, self._characters = io.StringIO(), 0, 0
        return self._done(text)


class TextOutput:
    """An OpenText that says each event to a sink."""

    def __init__(self, sink: EventSink, max_characters: int = MAX_CHARACTERS) -> None:
        self._sink = sink
        self._text = OpenText(max_characters=max_characters)

    @property
    def is_open(self) -> bool:
        """As OpenText.is_open."""
        return self._text.is_open

    async def write(self, text: str) -> None:
        """Say more of the open text, or begin one."""
        for event in self._text.write(text):
            await self._sink.emit(event)

    async def feed(self, data: bytes) -> None:
        """The same for bytes as they come."""
        for event in self._text.feed(data):
            await self._sink.emit(event)

    async def close(self) -> None:
        """Say text_done, where there is any text."""
        for event in self._text.close():
            await self._sink.emit(event)


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
