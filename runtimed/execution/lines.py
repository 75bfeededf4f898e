"""Output that comes in chunks, as the lines it is made of."""

import codecs
import io
import re
from collections.abc import Iterator

import attrs

MAX_LINE_BYTES = 8 << 20
"""A longer line is passed on in pieces as it comes, so that its length costs no memory."""

_LOOKED_AT = 64
_MAY_BE_OBJECT = re.compile(rb'\{[ \t]*(?:"|\Z)')


@attrs.frozen
class Chunk:
    """Whole lines, each with its line feed, or where `partial` a piece of a line that is too long or not whole yet.

    The last line of all may lack its line feed; a piece that has one is the last of its line.
    """

    data: bytes
    partial: bool = False

    def lines(self) -> list[bytes]:
        """The lines, each with its line feed."""
        return io.BytesIO(self.data).readlines()


class LineBuffer:
    """Holds the line that has not ended yet, at most `max_line_bytes` of it."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()
        self._long = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Take what has come, and give what is to be passed on."""
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
        """Whether a line has begun that is no JSON object."""
        begun = bytes(self._rest[:_LOOKED_AT]).removeprefix(codecs.BOM_UTF8).lstrip()
        return bool(self._rest) and not begun.startswith(b"{")

    def show(self) -> Iterator[Chunk]:
        """Give what there is of such a line, up to where an object may begin; what follows is a line of its own."""
        if self.can_show:
            found = _MAY_BE_OBJECT.search(self._rest)
            cut = found.start() if found else len(self._rest)
            shown = bytes(self._rest[:cut])
            del self._rest[:cut]
            if shown:
                yield Chunk(shown, partial=True)

    def close(self, *, partial: bool = False) -> Iterator[Chunk]:
        """Give what is left, if anything."""
        rest = bytes(self._rest)
        self._rest.clear()
        if rest:
            yield Chunk(rest, partial)
