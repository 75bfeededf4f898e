"""Split output into lines as it arrives."""

import codecs
import io
import re
from collections.abc import Iterator

import attrs

MAX_LINE_BYTES = 8 << 20
"""The longest line that is held in memory. A longer line is passed on in pieces as they arrive."""

_LOOKED_AT = 64
_MAY_BE_OBJECT = re.compile(rb'\{[ \t]*(?:"|\Z)')


@attrs.frozen
class Chunk:
    """A piece of output.

    Attributes:
        data: Whole lines, each with its line feed; the last line of all may lack it.
        partial: `data` is a piece of one line that is too long or incomplete. A piece with a line feed ends the line.
    """

    data: bytes
    partial: bool = False

    def lines(self) -> list[bytes]:
        """Return the lines, each with its line feed."""
        return io.BytesIO(self.data).readlines()


class LineBuffer:
    """Holds the incomplete last line, at most `max_line_bytes` of it."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()
        self._long = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Add output, and yield what can be passed on."""
        if self._long:
            cut = data.find(b"\n") + 1
            yield Chunk(data[: cut or len(data)], partial=True)
            if not cut:
                return
            self._long, data = False, data[cut:]
        cut = data.rfind(b"\n") + 1
        if cut:
            yield Chunk(bytes(self._rest) + data[:cut] if self._rest else data[:cut])
            self._rest.clear()
        self._rest += data[cut:]
        if len(self._rest) > self._max:
            self._long = True
            yield from self.close(partial=True)

    @property
    def can_show(self) -> bool:
        """Whether the incomplete line is not the beginning of a JSON object."""
        begun = bytes(self._rest[:_LOOKED_AT]).removeprefix(codecs.BOM_UTF8).lstrip()
        return bool(self._rest) and not begun.startswith(b"{")

    def show(self) -> Iterator[Chunk]:
        """Yield the incomplete line if it is no JSON object, up to where one may begin."""
        if self.can_show:
            found = _MAY_BE_OBJECT.search(self._rest)
            cut = found.start() if found else len(self._rest)
            shown = bytes(self._rest[:cut])
            del self._rest[:cut]
            if shown:
                yield Chunk(shown, partial=True)

    def close(self, *, partial: bool = False) -> Iterator[Chunk]:
        """Yield the incomplete line, if any."""
        rest = bytes(self._rest)
        self._rest.clear()
        if rest:
            yield Chunk(rest, partial)
