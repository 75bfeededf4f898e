"""Waits for conditions on Workers, judged from the feed."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from runtimed.core.state.wait_tracker import EVENT_NAMES, Match, WaitTracker
from runtimed.errors import Unavailable, WaitImpossible, WaitTimeout
from runtimed.feed.feed import Feed
from runtimed.feed.reader import Reader
from runtimed.feed.view import Selection
from runtimed.model.identity import EventCursor, WorkerRef, cursor_of
from runtimed.model.principal import ADMIN, Principal
from runtimed.model.waiting import Wait, WaitCondition
from runtimed.wire.frames import restore_envelope

MAX_WAITS = 1_000
"""Waits that are served at a time. Each holds a reader, and those of one Worker share a ring of its newest events."""

DECISIVE = Selection(names=EVENT_NAMES)


class Waits:
    """Waits until a condition on a Worker holds, without polling."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._count = 0

    async def wait(
        self,
        ref: WorkerRef,
        wanted: Collection[WaitCondition],
        cursor: EventCursor | None,
        timeout_s: float,
        *,
        principal: Principal = ADMIN,
    ) -> Wait:
        """Wait until one of the conditions holds, or has held right after the cursor or later.

        Args:
            ref: The Worker.
            wanted: The conditions, as WaitTracker defines them.
            cursor: Where to begin, or None for the present state.
            timeout_s: How long to wait, in seconds.
            principal: Who waits.

        Raises:
            WorkerNotFound: There is no such Worker, or the client may not know of it.
            WrongRuntimeCursor: The cursor belongs to another Runtime.
            CursorUnknownOrExpired: The cursor is older than what is retained, or newer than any event.
            CursorExpired: Events after the cursor were trimmed during the call.
            WorkerDeleted: The Worker was deleted during the call.
            UpstreamClosed: The feed is closed.
            WaitTimeout: None of the conditions came in time.
            WaitImpossible: None of the conditions can come.
            Unavailable: MAX_WAITS are served already.
        """
        with self._counted():
            try:
                async with asyncio.timeout(timeout_s):
                    matched, sequence = await self._match(ref, wanted, cursor, principal)
            except TimeoutError:
                raise WaitTimeout(sorted(wanted), timeout_s) from None
        return Wait(matched, cursor_of(sequence), self._feed.runtime.worker(ref))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._count >= MAX_WAITS:
            raise Unavailable(f"{MAX_WAITS} waits are served already: retry later")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def _match(
        self, ref: WorkerRef, wanted: Collection[WaitCondition], cursor: EventCursor | None, principal: Principal
    ) -> Match:
        runtime = self._feed.runtime
        with self._feed.open(ref, cursor, DECISIVE, principal=principal) as reader:
            tracker = WaitTracker(wanted, reader.sequence, await runtime.activity(ref, reader.sequence))
            while True:
                await _catch_up(reader, tracker)
                worker, is_starting = runtime.row(ref), runtime.is_starting(ref)
                match = tracker.judge(worker, is_starting=is_starting)
                if match is not None:
                    return match
                if reason := tracker.why_impossible(worker, is_starting=is_starting):
                    raise WaitImpossible(sorted(wanted), reason)
                await reader.changed()


async def _catch_up(reader: Reader, tracker: WaitTracker) -> None:
    while messages := await reader.read_available():
        for message in messages:
            tracker.observe(restore_envelope(message))
