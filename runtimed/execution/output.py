"""The text that a Worker streams."""

import codecs
import io
from collections.abc import Iterator

from runtimed.core.ports import EventSink
from runtimed.model.event import TextDelta, TextDone

MAX_TEXT_BLOCK = 1 << 20
"""Bytes of UTF-8 in a text_done, and so in an entry of the transcript; a longer text is cut into several."""

MAX_DELTA_CHARACTERS = 1 << 14


class TextOutput:
    """Turns what a program writes into text_delta, and text_done when the text is closed or grows too long.

    Bytes are read as UTF-8; what is not becomes U+FFFD. A character may come in two pieces.
    """

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._block = io.StringIO()
        self._size = 0

    async def write(self, text: str) -> None:
        """Say more of the open text, or begin one."""
        for piece in _pieces(text):
            size = len(piece.encode())
            if self._size + size > MAX_TEXT_BLOCK:
                await self._finish()
            self._block.write(piece)
            self._size += size
            await self._sink.emit(TextDelta(piece))

    async def feed(self, data: bytes) -> None:
        """The same for bytes as they come."""
        await self.write(self._decoder.decode(data))

    async def close(self) -> None:
        """Say text_done, where there is any text."""
        await self.write(self._decoder.decode(b"", final=True))
        if self._size:
            await self._finish()

    async def _finish(self) -> None:
        text = self._block.getvalue()
        self._block, self._size = io.StringIO(), 0
        await self._sink.emit(TextDone(text))


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), MAX_DELTA_CHARACTERS):
        yield text[start : start + MAX_DELTA_CHARACTERS]
