"""One observer's place in the log of one Worker."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from runtimed.core.runtime import Runtime
from runtimed.errors import UpstreamClosed
from runtimed.feed.log import Log
from runtimed.feed.ring import Frame, frame
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import WorkerRef
from runtimed.wire.frames import restore_frame, snapshot_frame


class Reader:
    """A cursor, and nothing else: it has no queue. It reads from the ring what that still has, else from the store.

    Every event behind the cursor is read exactly once and in order, whatever is published meanwhile.
    """

    def __init__(self, runtime: Runtime, log: Log, ref: WorkerRef, sequence: int) -> None:
        self.sequence = sequence
        self._runtime = runtime
        self._log = log
        self._ref = ref

    async def snapshot(self) -> bytes:
        """The first frame: the state of the Worker right behind the cursor."""
        return snapshot_frame(await self._runtime.snapshot(self._ref, self.sequence))

    async def read(self) -> Sequence[bytes]:
        """The next frames, at least one; waits for them. Raises UpstreamClosed when there will be no more."""
        while True:
            frames = self._log.ring.after(self.sequence, self._runtime.limits.max_event_batch_items)
            if frames is None:
                frames = [frame(event) for event in await self._runtime.events(self._ref, self.sequence)]
            if frames:
                return self._advance(frames)
            if self._log.closed:
                raise UpstreamClosed
            await self._log.called()

    async def events(self) -> AsyncIterator[EventEnvelope]:
        """The same events decoded, one by one, until there will be no more."""
        with contextlib.suppress(UpstreamClosed):
            while True:
                for data in await self.read():
                    yield restore_frame(data)

    def _advance(self, frames: Sequence[Frame]) -> Sequence[bytes]:
        self.sequence = frames[-1][0]
        return [data for _, data in frames]
