"""Pipes between the daemon and a program, without ever blocking."""

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Iterable

CHUNK = 1 << 16


async def readable(descriptors: Iterable[int], wake: asyncio.Event | None = None) -> None:
    """Wait until one of the descriptors can be read, or `wake` is set; it is cleared again."""
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
    """That many pipes, each as the descriptors to read and to write. Raises OSError, and leaves none open then."""
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
    """Our end of a pipe that a program writes to. What is not read makes the program wait."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        self.ended = False

    def read(self, size: int = CHUNK) -> bytes:
        """What has come, at most `size` bytes. Empty where nothing has, or the last writer is gone: `ended`."""
        try:
            data = os.read(self.descriptor, size)
        except BlockingIOError:
            return b""
        self.ended = not data
        return data

    def waiting(self) -> int:
        """How many bytes have come and were not read; a pipe holds a bounded number."""
        answer = fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def discard(self) -> None:
        """From now on read and forget whatever comes, so that a program that is to end need not wait for us."""
        asyncio.get_running_loop().add_reader(self.descriptor, self._forget)

    def close(self) -> None:
        """Let go of the pipe. Call it once."""
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)

    def _forget(self) -> None:
        if not self.read() and self.ended:
            asyncio.get_running_loop().remove_reader(self.descriptor)
