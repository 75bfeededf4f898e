"""Pipes between the daemon and its programs, read without blocking."""

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Iterable

CHUNK = 1 << 16


async def readable(descriptors: Iterable[int], wake: asyncio.Event | None = None) -> None:
    """Wait until a descriptor is readable or `wake` is set; then clear `wake`."""
    loop, awake = asyncio.get_running_loop(), wake or asyncio.Event()
    watched = tuple(descriptors)
    for descriptor in watched:
        loop.add_reader(descriptor, awake.set)
    try:
        await awake.wait()
    finally:
        for descriptor in watched:
            loop.remove_reader(descriptor)
    awake.clear()


def pipes(count: int) -> list[tuple[int, int]]:
    """Make pipes.

    Args:
        count: How many.

    Returns:
        For each pipe, its descriptors to read and to write.

    Raises:
        OSError: Too many descriptors are open; none of the new ones is left.
    """
    made = []
    with contextlib.ExitStack() as undo:
        for _ in range(count):
            pair = os.pipe()
            for descriptor in pair:
                undo.callback(os.close, descriptor)
            made.append(pair)
        undo.pop_all()
    return made


class Inlet:
    """Our end of a pipe that a program writes to. The program waits while the pipe is full."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        self.ended = False

    def read(self, size: int = CHUNK) -> bytes:
        """Read what has arrived.

        Returns:
            At most `size` bytes. None if nothing has arrived, or if the last writer is gone, which sets `ended`.
        """
        try:
            data = os.read(self.descriptor, size)
        except BlockingIOError:
            return b""
        self.ended = not data
        return data

    def waiting(self) -> int:
        """Return how many bytes can be read. The size of a pipe limits the number."""
        answer = fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def discard(self) -> None:
        """Read and drop all further output, so that a program that is about to end does not wait for a reader."""
        asyncio.get_running_loop().add_reader(self.descriptor, self._drop)

    def close(self) -> None:
        """Close the pipe. Call it once."""
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)

    def _drop(self) -> None:
        if not self.read() and self.ended:
            asyncio.get_running_loop().remove_reader(self.descriptor)
