"""Archives in the format of tar: a copy of the database, then the folders of Workers. All functions block.

The folders are read while programs change them. Nothing that they do meanwhile leads out of the store's folder: it is
walked by descriptor, and no link is followed.
"""

import contextlib
import os
import stat
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from runtimed.errors import StoreIo
from runtimed.store.data_dir import DATABASE, WORKERS, WORKSPACES

FOLDERS = (WORKSPACES, WORKERS)
"""The folders of a store that are archived."""

SKIPPED = "skipped"
"""The last member of an archive: a line for each entry that could not be archived, and why."""

BLOCK_BYTES = 256 * 1024

MAX_DEPTH = 100
"""How deep folders are archived. Two descriptors are open for each level."""

MAX_SKIPPED = 1_000
"""How many skipped entries are named; others are counted."""

MAX_HOLES_BYTES = 64 * 2**20
"""The bytes that a file may lack on the disk. An archive would hold them all, as zeros."""

_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Blocks = Generator[bytes, None, None]


def archive(database: BinaryIO, folder: Path) -> Blocks:
    """Yield the bytes of an archive of a store, in blocks that are not empty.

    Args:
        database: A copy of the database.
        folder: The folder of the store.

    Raises:
        StoreIo: The copy cannot be read to its end.
    """
    size = os.fstat(database.fileno()).st_size
    yield _header(DATABASE, tarfile.REGTYPE, 0o600, size=size)
    if lacking := (yield from _content(database.fileno(), size)):
        raise StoreIo(f"the copy of the database cannot be read: its last {lacking} bytes are missing")
    root = os.open(folder, _PLACE)
    try:
        walk = _Walk(os.fstat(root).st_dev)
        for name in FOLDERS:
            yield from walk.entry(root, name, name)
    finally:
        os.close(root)
    listed = walk.listed()
    end = bytes(-len(listed) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
    yield _header(SKIPPED, tarfile.REGTYPE, 0o600, size=len(listed)) + listed + end


class _Walk:
    """Yields the members of folders of one device, and collects what it has to skip."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._skipped: list[str] = []
        self._count = 0

    def listed(self) -> bytes:
        """Return a line for each entry that was skipped."""
        more = self._count - len(self._skipped)
        lines = [*self._skipped, *([f"{more} more"] if more else [])]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")

    def entry(self, folder: int, name: str, path: str, depth: int = 0) -> Blocks:
        """Yield the member for one entry, and those below it. Entries that have vanished are no members.

        Args:
            folder: The descriptor of the folder that it is in.
            name: Its name there.
            path: Its path in the archive.
            depth: How many folders above it are in the archive.
        """
        try:
            found = os.lstat(name, dir_fd=folder)
            if stat.S_ISDIR(found.st_mode):
                yield from self._folder(os.open(name, _PLACE, dir_fd=folder), path, depth)
            elif stat.S_ISREG(found.st_mode):
                yield from self._file(os.open(name, _FILE, dir_fd=folder), path)
            elif stat.S_ISLNK(found.st_mode):
                target = os.readlink(name, dir_fd=folder)
                yield _header(path, tarfile.SYMTYPE, 0o777, target=target, found=found)
            else:
                self._skip(path, "it is a device, a pipe or a socket")
        except FileNotFoundError:
            pass
        except OSError as error:
            self._skip(path, str(error.strerror))

    def _folder(self, descriptor: int, path: str, depth: int) -> Blocks:
        try:
            found = os.fstat(descriptor)
            if depth == MAX_DEPTH or found.st_dev != self._device:
                is_deep = f"it is more than {MAX_DEPTH} folders deep"
                self._skip(path, is_deep if depth == MAX_DEPTH else "another file system is mounted there")
                return
            yield _header(path, tarfile.DIRTYPE, stat.S_IMODE(found.st_mode), found=found)
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    yield from self.entry(descriptor, entry.name, f"{path}/{entry.name}", depth + 1)
        finally:
            os.close(descriptor)

    def _file(self, descriptor: int, path: str) -> Blocks:
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                self._skip(path, "it is a device, a pipe or a socket")
            elif _holes(descriptor, found) > MAX_HOLES_BYTES:
                self._skip(path, "it consists mostly of holes")
            else:
                yield _header(path, tarfile.REGTYPE, stat.S_IMODE(found.st_mode), size=found.st_size, found=found)
                short = yield from _content(descriptor, found.st_size)
                if short:
                    self._skip(path, f"it was cut while it was read: {short} zeros end it")
        finally:
            os.close(descriptor)

    def _skip(self, path: str, reason: str) -> None:
        self._count += 1
        if self._count <= MAX_SKIPPED:
            self._skipped.append(f"{path!a}: {reason}")


def _header(
    path: str, kind: bytes, mode: int, *, size: int = 0, target: str = "", found: os.stat_result | None = None
) -> bytes:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.size, member.linkname = kind, mode, size, target
    if found is not None:
        member.uid, member.gid, member.mtime = found.st_uid, found.st_gid, int(found.st_mtime)
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(descriptor: int, size: int) -> Generator[bytes, None, int]:
    """Yield exactly so many bytes of a file, and fill up its last block. Returns how many bytes it lacked."""
    place = 0
    with contextlib.suppress(OSError):  # what cannot be read is lacking
        while place < size and (block := os.pread(descriptor, min(BLOCK_BYTES, size - place), place)):
            place += len(block)
            yield block
    left = size - place + -size % tarfile.BLOCKSIZE
    while left:
        yield bytes(min(left, BLOCK_BYTES))
        left -= min(left, BLOCK_BYTES)
    return size - place


def _holes(descriptor: int, found: os.stat_result) -> int:
    """Return how many bytes of a file are holes; if they are more than MAX_HOLES_BYTES, at least that many."""
    if found.st_size - 512 * found.st_blocks <= MAX_HOLES_BYTES:
        return 0
    holes = place = 0
    with contextlib.suppress(OSError):  # there is no more data
        while holes <= MAX_HOLES_BYTES:
            begin = os.lseek(descriptor, place, os.SEEK_DATA)
            holes += begin - place
            place = os.lseek(descriptor, begin, os.SEEK_HOLE)
        return holes
    return holes + found.st_size - place
