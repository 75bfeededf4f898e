"""The write-ahead log as a file: find damage that makes SQLite stop reading early, and repair the checksums.

The layout is that of SQLite's file format: a header of 32 bytes, then frames. A frame is a header of 24 bytes and a
page. It stores a checksum over itself and everything before it. So a frame that follows a damaged one can still be
verified, from the checksum that the damaged one stores.

A crash can tear only the last transaction, because each commit reaches the disk before the next transaction begins.
If a commit is unreadable and a later frame can be verified, the log was not torn by a crash: it is damaged.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import attrs

HEADER = struct.Struct(">4I8s8s")
"""The header: magic number, format version, page size, checkpoint number, salts, checksum."""

FRAME = struct.Struct(">2I8s8s")
"""A frame's header: page number, pages in the database if the frame commits and else 0, salts, checksum."""

MAGIC = 0x377F0682
"""The magic number. If its lowest bit is set, checksums are computed over big-endian words."""

FORMAT = 3_007_000

Sum = tuple[int, int]
Order = Literal["little", "big"]


def checksum(data: bytes, seed: Sum, order: Order) -> Sum:
    """Return SQLite's log checksum.

    Args:
        data: A multiple of eight bytes.
        seed: The checksum of everything before the data.
        order: The byte order of the words that are summed.
    """
    low, high = seed
    words = iter(struct.unpack(f"{'<' if order == 'little' else '>'}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        low = (low + even + high) & 0xFFFFFFFF
        high = (high + odd + low) & 0xFFFFFFFF
    return low, high


@attrs.frozen
class Damage:
    """Committed frames that SQLite cannot read.

    Attributes:
        first: The number of the first damaged frame, counted from 1, or 0 if the header is damaged.
        last: The number of the last committed frame.
        transactions: How many committed transactions SQLite cannot read.
    """

    first: int
    last: int
    transactions: int


@attrs.frozen
class _Frame:
    number: int
    page: int
    pages: int
    ours: bool
    sound: bool

    @property
    def commits(self) -> bool:
        return self.ours and self.pages > 0


class Log:
    """A log that is open for reading.

    Args:
        file: The log, at its beginning.
        page_size: The page size of the database in bytes, used if the header of the log is damaged.
    """

    def __init__(self, file: BinaryIO, page_size: int) -> None:
        self._file = file
        self._size = page_size
        self._header = header = _Header.of(file.read(HEADER.size), page_size)
        self._salts = header.salts if header.sound else self._head(1)[2]

    def damage(self, readable: int) -> Damage | None:
        """Return the damage after the frames that SQLite can read.

        Args:
            readable: How many frames SQLite reads.

        Returns:
            The damage, or None if the log ends there or its last transaction is torn.
        """
        frames = list(self._frames(readable + 1))
        newest = max((frame.number for frame in frames if frame.sound), default=0)
        commits = [frame.number for frame in frames if frame.commits and frame.number < newest]
        behind = commits[-1] if commits else readable
        if newest and all(frame.sound for frame in frames[behind - readable : newest - readable]):
            commits += [newest] if frames[newest - readable - 1].commits else []
        if not commits:
            return None
        last = commits[-1]
        unsound = [frame.number for frame in frames[: last - readable] if not frame.sound]
        first = 0 if not self._header.sound else min(unsound, default=last)
        return Damage(first, last, len(commits))

    def plausible(self, damage: Damage) -> bool:
        """Return whether each unreadable frame has the number of a page that the database has."""
        pages = self._head(damage.last)[1]
        return all(1 <= self._head(number)[0] <= pages for number in range(max(damage.first, 1), damage.last + 1))

    def write_mended(self, damage: Damage, target: BinaryIO) -> None:
        """Write the log up to the last committed frame, with new checksums, so that SQLite reads all of it."""
        header = self._header.mended(self._salts)
        target.write(header.packed)
        seed = header.sum
        for number in range(1, damage.last + 1):
            page, pages, _, stored = self._head(number)
            data = self._page()
            seed = self._sum(page, pages, data, seed) if number >= damage.first else struct.unpack(">2I", stored)
            target.write(FRAME.pack(page, pages, self._salts, struct.pack(">2I", *seed)) + data)

    def _frames(self, first: int) -> Iterator[_Frame]:
        """Yield the frames from number `first`. Frames left by an earlier use of the file are not `ours`."""
        seeds = [self._header.sum] if first == 1 else [struct.unpack(">2I", self._head(first - 1)[3])]
        end = self._file.seek(0, 2)
        for number in range(first, (end - HEADER.size) // (FRAME.size + self._size) + 1):
            page, pages, salts, stored = self._head(number)
            kept = struct.unpack(">2I", stored)
            ours = salts == self._salts
            data = self._page() if ours else b""
            sums = [self._sum(page, pages, data, seed) for seed in seeds] if ours else []
            sound = kept in sums
            yield _Frame(number, page, pages, ours, sound)
            seeds = [kept] if sound else [kept, *sums[:1]]

    def _head(self, number: int) -> tuple[int, int, bytes, bytes]:
        self._file.seek(HEADER.size + (number - 1) * (FRAME.size + self._size))
        head = self._file.read(FRAME.size)
        return FRAME.unpack(head) if len(head) == FRAME.size else (0, 0, b"", b"\0" * 8)

    def _page(self) -> bytes:
        """Read the page that follows the frame header that was read last."""
        return self._file.read(self._size)

    def _sum(self, page: int, pages: int, data: bytes, seed: Sum) -> Sum:
        return checksum(struct.pack(">2I", page, pages) + data, seed, self._header.order)


@attrs.frozen
class _Header:
    """The header of a log; if it is not `sound`, the header that the log should have."""

    page_size: int
    checkpoints: int
    salts: bytes
    order: Order
    sound: bool

    @classmethod
    def of(cls, packed: bytes, page_size: int) -> "_Header":
        if len(packed) == HEADER.size:
            magic, version, size, checkpoints, salts, _ = HEADER.unpack(packed)
            order: Order = "big" if magic & 1 else "little"
            found = cls(size, checkpoints, salts, order, sound=True)
            if (magic & ~1, version, size, found.packed) == (MAGIC, FORMAT, page_size, packed):
                return found
        return cls(page_size, 0, b"", sys.byteorder, sound=False)

    @property
    def sum(self) -> Sum:
        return checksum(self._fields(), (0, 0), self.order)

    @property
    def packed(self) -> bytes:
        return self._fields() + struct.pack(">2I", *self.sum)

    def mended(self, salts: bytes) -> "_Header":
        return attrs.evolve(self, salts=salts, sound=True)

    def _fields(self) -> bytes:
        magic = MAGIC | (self.order == "big")
        return HEADER.pack(magic, FORMAT, self.page_size, self.checkpoints, self.salts, b"")[:-8]


def log_of(database: Path) -> Path:
    """Return the path of the write-ahead log of a database."""
    return Path(f"{database}-wal")
