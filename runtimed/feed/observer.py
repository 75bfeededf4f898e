"""An observer: a position in a log, and the transport that its events are written to."""

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Callable, Coroutine
from typing import Any

from runtimed.feed.event_log import EventLog
from runtimed.feed.unread import Unread
from runtimed.feed.view import Selection

MAX_UNSENT = 64 * 2**10
"""The unsent bytes of its transport above which an observer is moved from synced to unsynced."""


class Observer:
    """Writes the selected events of a log to a transport, exactly once and in order.

    A synced observer costs no task: the log's flusher writes to it. An unsynced one has a task that reads what it
    lacks, and waits for the transport after each batch, until it is synced.

    Attributes:
        sequence: The sequence up to which everything was written.
        selection: Which events are written.
        transport: Where they are written.
    """

    __slots__ = (
        "_catching_up",
        "_drain",
        "_ended",
        "_handed_over",
        "_is_muted",
        "_log",
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
        log: EventLog,
        sequence: int,
        selection: Selection,
        transport: asyncio.WriteTransport,
        drain: Callable[[], Coroutine[Any, Any, None]],
        ended: Callable[[Exception], None],
        unread: Unread,
    ) -> None:
        """Start writing after a sequence, with a snapshot first if the log is of one Worker.

        Args:
            log: Where events are read.
            sequence: Write events after this sequence.
            selection: Which events to write.
            transport: Where to write.
            drain: Waits until the transport accepts more.
            ended: Called with the reason when the feed cannot continue, possibly more than once.
            unread: Counts the unsent bytes of all observers.
        """
        self.sequence = min(sequence, log.newest)
        self.selection = selection
        self._snapshot_at: int | None = sequence
        self._log = log
        self.transport = transport
        self._drain = drain
        self._ended = ended
        self._unread = unread
        self._is_muted = False
        self._handed_over = self._waiting = self._taken = 0
        self._catching_up: asyncio.Task[None] | None = None
        unread.enter(self)
        self.unsync()

    def write(self, data: bytes) -> None:
        """Write whole messages. Does nothing once muted. A closing transport ends the observer."""
        if not self._is_muted:
            unread = self._unread
            unread.room -= len(data)
            if unread.room < 0:
                unread.recount(len(data))
        if not self._is_muted and not self._written(data):
            self.end(ConnectionResetError("the observer has left"))

    def _written(self, data: bytes) -> bool:
        if self.transport.is_closing():
            return False
        try:
            self.transport.write(data)
        except RuntimeError:  # a transport that uvloop closed on its own may not report that it is closing
            return False
        self._handed_over += len(data)
        return True

    def write_aside(self, data: bytes) -> None:
        """Write a message that is not an event. Does nothing before the snapshot or while the transport is full."""
        if self._snapshot_at is None and not self.is_full:
            self.write(data)

    @property
    def lag(self) -> int:
        """By how much its sequence is behind the newest event of the log."""
        return max(0, self._log.newest - self.sequence)

    @property
    def is_full(self) -> bool:
        """Whether the transport holds more than MAX_UNSENT unsent bytes."""
        return self.transport.get_write_buffer_size() > MAX_UNSENT

    @property
    def newest(self) -> int:
        """The sequence of the newest event of the log."""
        return self._log.newest

    def took_some(self) -> bool:
        """Return whether the peer has received bytes since the last call.

        This only considers a peer that was behind by more than MAX_UNSENT bytes at the last call. Any other peer must
        answer pings to count as alive: its kernel accepts a few events even if its process is stopped.
        """
        waited, taken = self._waiting, self._taken
        self._waiting = unsent(self.transport)
        self._taken = self._handed_over - self._waiting
        return waited > MAX_UNSENT and self._taken > taken

    def unsync(self) -> None:
        """Start the task that reads what the observer lacks, until it is synced."""
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())

    def end(self, error: Exception) -> None:
        """Report the reason why the feed cannot continue. Does nothing once muted."""
        if not self._is_muted:
            self._ended(error)

    def dismiss(self, error: Exception) -> None:
        """Report the reason why the feed ends for this observer, and write nothing more."""
        self.end(error)
        self.mute()

    def mute(self) -> None:
        """Write nothing more."""
        self._is_muted = True
        self._log.synced.discard(self)

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    async def close(self) -> None:
        """Write nothing more, and stop the observer's task.

        A wait for the transport is not cancelled: that would cancel it for all who wait for the same transport.
        """
        self.mute()
        self._unread.leave(self)
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait((self._catching_up,))

    async def _catch_up(self) -> None:
        try:
            await self._write_snapshot()
            while self.sequence < self._log.newest:
                batch = await self._log.read(self.sequence, self.selection)
                if batch.messages:
                    self.write(self._log.view.encoding.join(batch.messages))
                self.sequence = batch.upto
                await self._drained()
            self._sync()
        except Exception as error:  # noqa: BLE001 `ended` receives every failure, and reports it to the client
            self.end(error)
        finally:
            self._catching_up = None

    def _sync(self) -> None:
        """Join the synced observers, or raise the reason why the log has ended."""
        if self._log.ended is not None:
            raise self._log.ended
        if not self._is_muted:
            self._log.synced.add(self)

    async def _write_snapshot(self) -> None:
        if self._snapshot_at is None:
            return
        snapshot = await self._log.snapshot(self._snapshot_at)
        if snapshot is not None:
            self.write(snapshot)
        self._snapshot_at = None
        await self._drained()

    async def _drained(self) -> None:
        """Let other tasks run, and wait until the transport accepts more."""
        await asyncio.sleep(0)
        if self.is_full:
            await asyncio.shield(self._drain())  # others may wait for the same transport


def unsent(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the peer has not acknowledged: those in the transport and those in the kernel."""
    held, sock = bytearray(4), transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # the system has no such request, or the socket is closed
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, held)
    return transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)
