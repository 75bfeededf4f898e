"""A reader that asks for the next events when it wants them."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from runtimed.errors import UpstreamClosed
from runtimed.feed.log import Log
from runtimed.feed.view import EVERYTHING
from runtimed.model.event import EventEnvelope
from runtimed.wire.frames import restore_envelope


class Reader:
    """A cursor, and nothing else: it has no queue. It reads from the ring what that still has, else from the store.

    Every event behind the cursor is read exactly once and in order, whatever is published meanwhile.
    """

    def __init__(self, log: Log, sequence: int) -> None:
        self.sequence = min(sequence, log.newest)
        self._log = log

    async def read(self) -> Sequence[bytes]:
        """The next events in the log's encoding, at least one; waits for them.

        Raises UpstreamClosed or WorkerDeleted when there will be no more, CursorExpired when retention overtook it.
        """
        while True:
            batch = await self._log.read(self.sequence, EVERYTHING)
            self.sequence = batch.upto
            if batch.messages:
                return batch.messages
            if self.sequence == self._log.newest:
                await self._wait()

    async def events(self) -> AsyncIterator[EventEnvelope]:
        """The events of an embedded Runtime decoded, one by one, until there will be no more."""
        with contextlib.suppress(UpstreamClosed):
            while True:
                for envelope in await self.read():
                    yield restore_envelope(envelope)

    async def _wait(self) -> None:
        if self._log.ended is not None:
            raise self._log.ended
        await self._log.more()
