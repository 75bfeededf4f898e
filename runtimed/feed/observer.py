"""An observer that is written to as events happen."""

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Callable, Coroutine
from typing import Any

from runtimed.feed.log import Log
from runtimed.feed.unread import Unread
from runtimed.feed.view import Selection

MAX_UNSENT = 64 * 2**10
"""Past so many bytes that are written but not sent an observer at the tip has fallen behind."""


class Observer:
    """A place in a log, and the transport on which what it selects behind it is written, exactly once and in order.

    At the tip it costs no task: the log writes to it. Before, and when its transport takes no more, a task of its own
    reads what it lacks, waiting for the transport each time, until it is at the tip. `drain` waits until the
    transport takes more. `ended` is called with the reason when the feed cannot go on, maybe more than once.
    """

    __slots__ = (
        "_catching_up",
        "_drain",
        "_ended",
        "_handed_over",
        "_log",
        "_muted",
        "_snapshot_at",
        "_taken",
        "_unread",
        "_waiting",
        "selection",
        "sequence",
        "transport",
    )

    def __init__(
        self,
        log: Log,
        sequence: int,
        selection: Selection,
        transport: asyncio.WriteTransport,
        drain: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[Exception], None],
        unread: Unread,
    ) -> None:
        self.sequence = min(sequence, log.newest)
        self.selection = selection
        self._snapshot_at: int | None = sequence
        self._log = log
        self.transport = transport
        self._drain = drain
        self._ended = ended
        self._unread = unread
        self._muted = False
        self._handed_over = self._waiting = self._taken = 0
        self._catching_up: asyncio.Task[None] | None = None
        unread.enter(self)
        self.fall_behind()

    def write(self, data: bytes) -> None:
        """Write whole messages; nothing once it is muted. A transport that is closing ends it."""
        if not self._muted:
            unread = self._unread
            unread.room -= len(data)
            if unread.room < 0:
                unread.look(len(data))
        if not self._muted and not self._written(data):
            self.end(ConnectionResetError("the observer has left"))

    def _written(self, data: bytes) -> bool:
        if self.transport.is_closing():
            return False
        try:
            self.transport.write(data)
        except RuntimeError:  # what uvloop closed itself may not say that it is closing
            return False
        self._handed_over += len(data)
        return True

    def write_aside(self, data: bytes) -> None:
        """Write a message that is no event, unless it would be the first or would have to wait."""
        if self._snapshot_at is None and not self.full:
            self.write(data)

    @property
    def full(self) -> bool:
        """Whether more than MAX_UNSENT bytes are not sent yet."""
        return self.transport.get_write_buffer_size() > MAX_UNSENT

    @property
    def newest(self) -> int:
        """The sequence of the newest event of what is observed."""
        return self._log.newest

    def took_some(self) -> bool:
        """Whether the other side, behind by more than MAX_UNSENT when last asked about, has taken some since.

        Who is not that far behind has to answer pings: its kernel takes a few events for a process that stands still.
        """
        waited, taken = self._waiting, self._taken
        self._waiting = unsent(self.transport)
        self._taken = self._handed_over - self._waiting
        return waited > MAX_UNSENT and self._taken > taken

    def fall_behind(self) -> None:
        """Begin to catch up."""
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())

    def end(self, error: Exception) -> None:
        """Say that the feed cannot go on."""
        if not self._muted:
            self._ended(error)

    def dismiss(self, error: Exception) -> None:
        """Say that the feed ends for this observer, and write nothing more."""
        self.end(error)
        self.mute()

    def mute(self) -> None:
        """Write nothing more."""
        self._muted = True
        self._log.tip.discard(self)

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    async def close(self) -> None:
        """Write nothing more, and catch up no more. A wait for the transport that was begun goes on until that takes
        more or is closed: to break it off would break it off for all who wait for the same transport."""
        self.mute()
        self._unread.leave(self)
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait((self._catching_up,))

    async def _catch_up(self) -> None:
        try:
            await self._greet()
            while self.sequence < self._log.newest:
                batch = await self._log.read(self.sequence, self.selection)
                if batch.messages:
                    self.write(self._log.view.encoding.join(batch.messages))
                self.sequence = batch.upto
                await self._drained()
            self._join()
        except Exception as error:  # noqa: BLE001 whatever it is, whoever serves this observer tells it
            self.end(error)
        finally:
            self._catching_up = None

    def _join(self) -> None:
        """It has everything: wait at the tip."""
        if self._log.ended is not None:
            raise self._log.ended
        if not self._muted:
            self._log.tip.add(self)

    async def _greet(self) -> None:
        if self._snapshot_at is None:
            return
        snapshot = await self._log.snapshot(self._snapshot_at)
        if snapshot is not None:
            self.write(snapshot)
        self._snapshot_at = None
        await self._drained()

    async def _drained(self) -> None:
        """Give way, and wait until the transport takes more."""
        await asyncio.sleep(0)
        if self.full:
            await asyncio.shield(self._drain())  # others may wait with it for the same transport


def unsent(transport: asyncio.WriteTransport) -> int:
    """How many bytes wait for the other side, those included that the kernel has and nobody has acknowledged."""
    held, sock = bytearray(4), transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # a system that does not tell, a socket that is closed
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, held)
    return transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)
