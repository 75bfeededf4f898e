"""A reader that pulls events."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from runtimed.errors import UpstreamClosed
from runtimed.feed.event_log import EventLog
from runtimed.feed.view import EVERYTHING, Selection
from runtimed.model.event import EventEnvelope
from runtimed.wire.frames import restore_envelope


class Reader:
    """A cursor without a queue. It reads from the ring what the ring still holds, and the rest from the store.

    Every event after the cursor is read exactly once and in order, whatever is published meanwhile.

    Attributes:
        sequence: The sequence of the last event that was read.
    """

    def __init__(self, log: EventLog, sequence: int, selection: Selection = EVERYTHING) -> None:
        """Start after a sequence of a log, and read the selected events."""
        self.sequence = min(sequence, log.newest)
        self._log = log
        self._selection = selection

    async def read(self) -> Sequence[bytes]:
        """Wait for the next events.

        Returns:
            At least one event, in the log's encoding.

        Raises:
            UpstreamClosed: The feed is closed, and everything was read.
            WorkerDeleted: The Worker is deleted, and everything was read.
            CursorExpired: The next events are no longer retained.
            StoreError: The store could not be read.
        """
        while not (messages := await self.read_available()):
            await self.changed()
        return messages

    async def read_available(self) -> Sequence[bytes]:
        """Read the next events without waiting for new ones. Returns nothing once everything was read.

        Raises:
            CursorExpired: The next events are no longer retained.
            StoreError: The store could not be read.
        """
        while True:
            batch = await self._log.read(self.sequence, self._selection)
            self.sequence = batch.upto
            if batch.messages or self.sequence == self._log.newest:
                return batch.messages

    async def changed(self) -> None:
        """Wait until there are new events or a Worker has changed without one. Everything must have been read.

        Raises:
            UpstreamClosed: The feed is closed.
            WorkerDeleted: The Worker is deleted.
        """
        if self._log.ended is not None:
            raise self._log.ended
        await self._log.more()

    async def events(self) -> AsyncIterator[EventEnvelope]:
        """Yield decoded events one by one until the feed is closed.

        Raises:
            WorkerDeleted: The Worker is deleted, and everything was read.
            CursorExpired: The next events are no longer retained.
            StoreError: The store could not be read.
        """
        with contextlib.suppress(UpstreamClosed):
            while True:
                for envelope in await self.read():
                    yield restore_envelope(envelope)
