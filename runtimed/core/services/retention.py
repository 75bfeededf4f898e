"""How long events are kept: what is too old or too much is trimmed in the background, in small Changes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.ports import Clock, Store
from runtimed.core.services.diagnostics import Diagnostics
from runtimed.core.state import decisions
from runtimed.core.state.change import Change, EncodedEvent, Forgotten, Mark, TrimRange
from runtimed.errors import CursorExpired, RuntimedError, StoreCorrupt, StoreFull, WorkerNotFound
from runtimed.model.identity import WorkerId

TRIM_BATCH = 250
"""Events that one Change trims. A thousand, among those of 64 Workers, held up commits for 50 ms."""

SLACK = 16
"""What exceeds a limit is trimmed until a sixteenth of the limit is free again, so that not every event trims one."""

MARKS = 1_000
"""The precision of expiry, a thousandth of the age that events may have; and so about how many marks are kept."""

MIN_PERIOD_S, MAX_PERIOD_S = 1.0, 60.0
"""How often is looked for what has expired by age, and how soon after a full disk trimming is tried again."""

log = logging.getLogger(__name__)


class Retained(Protocol):
    """Something whose events are retained behind its floor."""

    retained_after: int


@contextlib.asynccontextmanager
async def retained(place: Retained, after: int) -> AsyncIterator[None]:
    """A read of events behind `after`. Raises CursorExpired where trimming is or gets ahead of it."""
    if after < place.retained_after:
        raise CursorExpired
    try:
        yield
    except StoreCorrupt:
        if after < place.retained_after:
            raise CursorExpired from None
        raise
    if after < place.retained_after:
        raise CursorExpired


class Retention:
    """Keeps events, runtime events and remarks within the limits, while `run` runs. Listens to its Pipeline.

    Readers are told first: a Worker's floor rises before its events go, so that none reads into a gap. `purged` waits
    until what is left of Workers that are deleted by now is gone.
    """

    def __init__(
        self,
        store: Store,
        sequencer: Sequencer,
        registry: WorkerRegistry,
        diagnostics: Diagnostics,
        limits: Limits,
        clock: Clock,
        purged: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._sequencer = sequencer
        self._registry = registry
        self._diagnostics = diagnostics
        self._limits = limits
        self._clock = clock
        self._purged = purged
        self._crowded: set[WorkerId] = set()
        self._kept: set[WorkerId] = set()
        self._marks: list[Mark] = []
        self._forgotten_events = 0
        self._due = asyncio.Event()
        self._mark_every_ms = 1_000 * limits.max_event_age_s // MARKS
        self._period_s = min(max(limits.max_event_age_s / MARKS, MIN_PERIOD_S), MAX_PERIOD_S)

    def publish(self, worker_id: WorkerId, _events: Sequence[EncodedEvent]) -> None:
        """See Listener."""
        mailbox = self._registry.find(worker_id)
        full = mailbox is not None and mailbox.worker.retained > self._limits.max_events_per_worker
        if full and worker_id not in self._kept:
            self._crowded.add(worker_id)
            self._due.set()
        elif self._is_too_large():
            self._due.set()

    def forget(self, worker_id: WorkerId) -> None:
        """See Listener."""
        self._crowded.discard(worker_id)
        self._kept.discard(worker_id)

    async def run(self, marks: Sequence[Mark]) -> None:
        """Trim what is due, again and again, until cancelled. `marks` are those of the store."""
        self._marks = list(marks)
        self._crowded |= {
            mailbox.worker.worker_id
            for mailbox in self._registry
            if mailbox.worker.retained > self._limits.max_events_per_worker
        }
        while True:
            self._due.clear()
            try:
                await self._sweep()
            except StoreFull:
                await asyncio.sleep(self._period_s)
            except RuntimedError as error:
                log.warning("events could not be trimmed: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._due.wait()

    async def _sweep(self) -> None:
        for worker_id in tuple(self._crowded):
            try:
                await self._thin_out(worker_id)
            except StoreCorrupt as error:
                self._keep_for_good(worker_id, error)
            self._crowded.discard(worker_id)
        await self._shrink()
        await self._expire()
        await self._forget_surplus()

    async def _thin_out(self, worker_id: WorkerId) -> None:
        """Bring the events of one Worker below their number."""
        wanted = _lowered(self._limits.max_events_per_worker)
        while (mailbox := self._registry.find(worker_id)) is not None and mailbox.worker.retained > wanted:
            count = min(TRIM_BATCH, mailbox.worker.retained - wanted)
            if not await self._trim(await self._store.oldest_events(worker_id, mailbox.worker.last_sequence, count)):
                break

    async def _shrink(self) -> None:
        """Bring the events of all Workers below their bytes; those that are deleted go first."""
        if self._is_too_large():
            await self._purged()
        if not self._is_too_large():
            return
        wanted = _lowered(self._limits.max_event_bytes)
        while (surplus := self._store.event_bytes - wanted) > 0:
            retained = sum(mailbox.worker.retained for mailbox in self._registry)
            count = min(TRIM_BATCH, 1 + retained * surplus // self._store.event_bytes)
            if not await self._trim(await self._oldest(self._sequencer.head, count)):
                break

    def _is_too_large(self) -> bool:
        return self._store.event_bytes > self._limits.max_event_bytes

    async def _expire(self) -> None:
        """Trim the events of all Workers that are older than they may be, and mark how far they go by now."""
        now = self._clock.unix_ms()
        expired = [mark for mark in self._marks if mark.unix_ms < now - 1_000 * self._limits.max_event_age_s]
        if expired:
            upto = expired[-1].sequence
            while await self._trim(await self._oldest(upto, TRIM_BATCH)):
                pass
            await self._sequencer.apply(Change(forgotten=Forgotten(marks=upto)), partial(self._drop_marks, upto))
        if self._is_mark_due(now):
            mark = Mark(self._sequencer.head, now)
            await self._sequencer.apply(Change(mark=mark), partial(self._marks.append, mark))

    def _is_mark_due(self, now: int) -> bool:
        """Whether there are events behind the last mark, and it is old enough, or of a clock that was ahead."""
        if not self._marks:
            return self._sequencer.head > 0
        last = self._marks[-1]
        return self._sequencer.head > last.sequence and abs(now - last.unix_ms) >= self._mark_every_ms

    def _drop_marks(self, upto: int) -> None:
        self._marks = [mark for mark in self._marks if mark.sequence > upto]

    async def _oldest(self, upto: int, count: int) -> Sequence[TrimRange]:
        """The oldest events of all Workers of which some can be trimmed."""
        return await self._store.oldest_events(None, upto, count, {*self._kept, *self._registry.damaged})

    async def _trim(self, trim_ranges: Sequence[TrimRange]) -> bool:
        """Let go of these events; whether any went."""
        trimmed = [await self._trim_worker(trim_range) for trim_range in trim_ranges]
        return any(trimmed)

    async def _trim_worker(self, trim_range: TrimRange) -> bool:
        mailbox = self._registry.find(trim_range.worker_id)
        if mailbox is None or trim_range.worker_id in self._kept or self._registry.is_damaged(trim_range.worker_id):
            return False
        try:
            state_at = await self._store.state_at(trim_range.worker_id, trim_range.upto)
        except StoreCorrupt as error:
            self._keep_for_good(trim_range.worker_id, error)
            return False
        self._registry.raise_retained_after(mailbox, trim_range.upto)
        with contextlib.suppress(WorkerNotFound):
            await mailbox.submit(partial(decisions.trim, trim_range=trim_range, state_at=state_at))
        return True

    def _keep_for_good(self, worker_id: WorkerId, error: StoreCorrupt) -> None:
        """Trim nothing of a Worker of which nobody can tell how it stood, so that the others' turn comes."""
        self._kept.add(worker_id)
        log.error("events of %s are not trimmed any more: %s", worker_id, error)

    async def _forget_surplus(self) -> None:
        """Bring remarks and runtime events below their numbers. Not every id of these is that of one: a full disk
        refuses some, so that the store has to count."""
        most = self._limits.max_runtime_events
        diagnostics = self._diagnostics.surplus(self._limits.max_diagnostics)
        events = max(0, self._sequencer.newest_runtime_event - most)
        if not diagnostics and events <= self._forgotten_events + most // SLACK:
            return
        forgotten = Forgotten(diagnostics=diagnostics, runtime_events_left=most)
        await self._sequencer.apply(Change(forgotten=forgotten), partial(self._diagnostics.drop, diagnostics))
        self._forgotten_events = events


def _lowered(limit: int) -> int:
    return limit - limit // SLACK
