"""The feed of a Runtime: what was published, for as many readers as there are."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runtimed.core.change import EncodedEvent
from runtimed.core.runtime import Runtime
from runtimed.errors import CursorUnknownOrExpired, UpstreamClosed, WrongRuntimeCursor
from runtimed.feed.log import Log
from runtimed.feed.reader import Reader
from runtimed.model.identity import EventCursor, WorkerId, WorkerRef

RING_BYTES = 2**20
"""How many bytes of a Worker's newest frames are kept while somebody observes it."""


class Feed:
    """Opens readers on the log of a Worker. It listens to its Runtime from the start until `close`.

    `closing` is done once it is closed.
    """

    def __init__(self, runtime: Runtime, ring_bytes: int = RING_BYTES) -> None:
        self.runtime = runtime
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ring_bytes = ring_bytes
        self._logs: dict[WorkerId, Log] = {}
        runtime.subscribe(self)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """See Listener."""
        log = self._logs.get(worker_id)
        if log is not None:
            log.append(events)

    def forget(self, worker_id: WorkerId) -> None:
        """See Listener."""

    @contextmanager
    def open(self, ref: WorkerRef, cursor: EventCursor | None = None) -> Iterator[Reader]:
        """A reader behind the cursor, or behind the Worker's newest event.

        Raises WorkerNotFound, WrongRuntimeCursor, CursorUnknownOrExpired, UpstreamClosed.
        """
        newest = self.runtime.newest_sequence(ref)
        if self.closing.done():
            raise UpstreamClosed
        self._check(cursor)
        log = self._logs.get(ref.worker_id)
        if log is None:
            log = self._logs[ref.worker_id] = Log(newest, self._ring_bytes)
        log.readers += 1
        try:
            yield Reader(self.runtime, log, ref, newest if cursor is None else cursor.sequence)
        finally:
            log.readers -= 1
            if not log.readers:
                del self._logs[ref.worker_id]

    def _check(self, cursor: EventCursor | None) -> None:
        if cursor is None:
            return
        if cursor.runtime_id != self.runtime.runtime_id:
            raise WrongRuntimeCursor(f"cursor: expected one of runtime {self.runtime.runtime_id}")
        if cursor.sequence > self.runtime.head:
            raise CursorUnknownOrExpired

    def close(self) -> None:
        """End every reader with UpstreamClosed, once it has read what there is. Harmless when repeated."""
        if not self.closing.done():
            self.closing.set_result(None)
            self.runtime.unsubscribe(self)
            for log in self._logs.values():
                log.close()
