"""Find the end of a request's body, which is passed on as it is."""

import re
from typing import Protocol

from runtimed.execution.network.rejection import malformed
from runtimed.execution.network.request import Body

MAX_CHUNK_LINE = 4096
"""The most bytes of the line before a chunk."""

MAX_TRAILER_BYTES = 16384

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class BodyScanner(Protocol):
    """Finds the end of a body. `done` says whether all of it was seen."""

    @property
    def done(self) -> bool: ...

    def feed(self, data: bytes) -> int:
        """Return how many bytes at the beginning of what comes next belong to the body.

        Raises:
            Rejection: It is malformed.
        """


def scanner(body: Body) -> BodyScanner:
    """Return what finds the end of a body."""
    return ChunkScanner() if body == "chunked" else LengthScanner(body)


class LengthScanner:
    """A body of a known length, in bytes."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        return taken


class ChunkScanner:
    """A body in chunks, with its trailers."""

    def __init__(self) -> None:
        self.done = False
        self._data_left = 0
        self._line = bytearray()
        self._read_line = self._begin_chunk
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> int:
        position = 0
        while position < len(data) and not self.done:
            if self._data_left:
                taken = min(self._data_left, len(data) - position)
                self._data_left -= taken
                position += taken
            else:
                position = self._take_line(data, position)
        return position

    def _take_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position, position + MAX_CHUNK_LINE)
        stop = end + 1 if end >= 0 else min(len(data), position + MAX_CHUNK_LINE)
        self._line += data[position:stop]
        if len(self._line) > MAX_CHUNK_LINE:
            raise malformed(f"expected at most {MAX_CHUNK_LINE} bytes in a line of a chunked body")
        if end >= 0:
            line = bytes(self._line)
            self._line.clear()
            if not line.endswith(b"\r\n"):
                raise malformed("expected CRLF at the end of each line of a chunked body")
            self._read_line(line[:-2])
        return stop

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise malformed("expected the size of a chunk")
        self._data_left = int(found[1], 16)
        self._read_line = self._end_chunk if self._data_left else self._trailer

    def _end_chunk(self, line: bytes) -> None:
        if line:
            raise malformed("expected CRLF at the end of a chunk")
        self._read_line = self._begin_chunk

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailer_bytes += len(line)
        if not _TRAILER.fullmatch(line) or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise malformed(f'expected trailers as "Name: value", at most {MAX_TRAILER_BYTES} bytes of them')
