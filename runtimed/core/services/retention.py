"""Trim events that are too old or too many, in the background, in small Changes."""

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
from runtimed.core.services.quotas import Quotas
from runtimed.core.services.tenant_events import TenantEvents
from runtimed.core.state import decisions
from runtimed.core.state.change import Change, EncodedEvent, Forgotten, Mark, TrimRange
from runtimed.errors import CursorExpired, RuntimedError, StoreCorrupt, StoreFull, WorkerNotFound
from runtimed.model.identity import WorkerId

TRIM_BATCH = 250
"""Events that one Change trims. With a thousand, for 64 Workers, commits waited for 50 ms."""

SLACK = 16
"""Trimming continues until one SLACKth of the limit is free, so that not every new event trims an old one."""

MARKS = 1_000
"""The precision of expiry, one thousandth of the maximum age; also about how many marks are kept."""

MIN_PERIOD_S, MAX_PERIOD_S = 1.0, 60.0
"""Bounds of the time between two sweeps for expired events; also the pause after a full disk."""

log = logging.getLogger(__name__)


class Retained(Protocol):
    """Something whose events are retained after a sequence."""

    retained_after: int


@contextlib.asynccontextmanager
async def retained(place: Retained, after: int) -> AsyncIterator[None]:
    """Guard a read of events after the sequence `after`. Raises CursorExpired if trimming overtakes it."""
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
    """Keeps events, runtime events and diagnostics within the limits, while `run` runs.

    Subscribes to its Sequencer. `retained_after` of a Worker rises before its events are removed, so that no reader
    meets a gap.
    """

    def __init__(
        self,
        store: Store,
        sequencer: Sequencer,
        registry: WorkerRegistry,
        diagnostics: Diagnostics,
        limits: Limits,
        clock: Clock,
        quotas: Quotas,
        purged: Callable[[], Awaitable[None]],
    ) -> None:
        """Make the service; `purged` waits until nothing is left of the Workers deleted so far."""
        self._store = store
        self._sequencer = sequencer
        self._registry = registry
        self._diagnostics = diagnostics
        self.limits = limits
        self._clock = clock
        self._tenant_events = TenantEvents(store, registry, quotas)
        self._purged = purged
        self._crowded: set[WorkerId] = set()
        self._untrimmable: set[WorkerId] = set()
        self._marks: list[Mark] = []
        self._forgotten_events = 0
        self._due = asyncio.Event()

    @property
    def _mark_every_ms(self) -> int:
        return 1_000 * self.limits.max_event_age_s // MARKS

    @property
    def _period_s(self) -> float:
        return min(max(self.limits.max_event_age_s / MARKS, MIN_PERIOD_S), MAX_PERIOD_S)

    def set_limits(self, limits: Limits) -> None:
        """Keep events within other limits from now on."""
        self.limits = limits
        self._untrimmable.clear()
        self._crowded |= self._find_crowded()
        self._due.set()

    def _find_crowded(self) -> set[WorkerId]:
        return {
            mailbox.worker.worker_id
            for mailbox in self._registry
            if mailbox.worker.retained > self.limits.max_events_per_worker
        }

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        mailbox = self._registry.find(worker_id)
        if mailbox is not None and mailbox.worker.tenant is not None and self._tenant_events.add(mailbox, events):
            self._due.set()
        full = mailbox is not None and mailbox.worker.retained > self.limits.max_events_per_worker
        if full and worker_id not in self._untrimmable:
            self._crowded.add(worker_id)
            self._due.set()
        elif self._is_too_large() or self._has_surplus_keys():
            self._due.set()

    def changed(self, worker_id: WorkerId) -> None:
        """Do nothing: there are no more events than before."""

    def forget(self, worker_id: WorkerId) -> None:
        self._crowded.discard(worker_id)
        self._untrimmable.discard(worker_id)
        self._tenant_events.forget(worker_id)

    def reload(self) -> None:
        """Apply the limits of tenants as they are now."""
        self._tenant_events.begin(self._registry)
        self._due.set()

    async def run(self, marks: Sequence[Mark]) -> None:
        """Trim what is due until cancelled. `marks` are those of the store."""
        self._marks = list(marks)
        self._tenant_events.begin(self._registry)
        self._crowded |= self._find_crowded()
        while True:
            self._due.clear()
            try:
                await self._sweep()
            except StoreFull:
                await asyncio.sleep(self._period_s)
            except RuntimedError as error:
                log.warning("cannot trim events", extra={"reason": error})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._due.wait()

    async def _sweep(self) -> None:
        for worker_id in tuple(self._crowded):
            try:
                await self._thin_out(worker_id)
            except StoreCorrupt as error:
                self._stop_trimming(worker_id, error)
            self._crowded.discard(worker_id)
        await self._shrink_tenants()
        await self._shrink()
        await self._expire()
        await self._forget_surplus()
        await self._forget_keys()

    async def _thin_out(self, worker_id: WorkerId) -> None:
        """Bring the number of one Worker's events below its limit."""
        wanted = _lowered(self.limits.max_events_per_worker)
        while (mailbox := self._registry.find(worker_id)) is not None and mailbox.worker.retained > wanted:
            count = min(TRIM_BATCH, mailbox.worker.retained - wanted)
            if not await self._trim(await self._store.oldest_events(worker_id, mailbox.worker.last_sequence, count)):
                break

    async def _shrink_tenants(self) -> None:
        """Bring the bytes of the events of each tenant below its limit."""
        await self._tenant_events.measure()
        for tenant in self._tenant_events.overfull():
            while (surplus := self._tenant_events.surplus(tenant, SLACK)) > 0:
                own = self._registry.of_tenant(tenant).mailboxes.values()
                retained = sum(mailbox.worker.retained for mailbox in own)
                count = min(TRIM_BATCH, 1 + retained * surplus // self._tenant_events.total(tenant))
                if not await self._trim(await self._oldest(self._sequencer.head, count, tenant)):
                    break

    async def _shrink(self) -> None:
        """Bring the bytes of all events below their limit; those of deleted Workers go first."""
        if self._is_too_large():
            await self._purged()
        if not self._is_too_large():
            return
        wanted = _lowered(self.limits.max_event_bytes)
        while (surplus := self._store.event_bytes - wanted) > 0:
            retained = sum(mailbox.worker.retained for mailbox in self._registry)
            count = min(TRIM_BATCH, 1 + retained * surplus // self._store.event_bytes)
            if not await self._trim(await self._oldest(self._sequencer.head, count)):
                break

    def _is_too_large(self) -> bool:
        return self._store.event_bytes > self.limits.max_event_bytes

    async def _expire(self) -> None:
        """Trim events that are older than allowed, and mark the time of the newest event."""
        now = self._clock.unix_ms()
        expired = [mark for mark in self._marks if mark.unix_ms < now - 1_000 * self.limits.max_event_age_s]
        if expired:
            upto = expired[-1].sequence
            while await self._trim(await self._oldest(upto, TRIM_BATCH)):
                pass
            await self._sequencer.commit_and_apply(
                Change(forgotten=Forgotten(marks=upto)), partial(self._drop_marks, upto)
            )
        if self._is_mark_due(now):
            mark = Mark(self._sequencer.head, now)
            await self._sequencer.commit_and_apply(Change(mark=mark), partial(self._marks.append, mark))

    def _is_mark_due(self, now: int) -> bool:
        """Return whether events follow the last mark, and it is old enough or from a clock that was ahead."""
        if not self._marks:
            return self._sequencer.head > 0
        last = self._marks[-1]
        return self._sequencer.head > last.sequence and abs(now - last.unix_ms) >= self._mark_every_ms

    def _drop_marks(self, upto: int) -> None:
        self._marks = [mark for mark in self._marks if mark.sequence > upto]

    async def _oldest(self, upto: int, count: int, tenant: str | None = None) -> Sequence[TrimRange]:
        """Return the oldest events of all Workers that can be trimmed, or of those of one tenant."""
        spared = {*self._untrimmable, *self._registry.damaged}
        return await self._store.oldest_events(None, upto, count, spared, tenant)

    async def _trim(self, trim_ranges: Sequence[TrimRange]) -> bool:
        """Trim these events. Returns whether any was trimmed."""
        trimmed = [await self._trim_worker(trim_range) for trim_range in trim_ranges]
        return any(trimmed)

    async def _trim_worker(self, trim_range: TrimRange) -> bool:
        mailbox = self._registry.find(trim_range.worker_id)
        if (
            mailbox is None
            or trim_range.worker_id in self._untrimmable
            or self._registry.is_damaged(trim_range.worker_id)
        ):
            return False
        try:
            state_at = await self._store.state_at(trim_range.worker_id, trim_range.upto)
        except StoreCorrupt as error:
            self._stop_trimming(trim_range.worker_id, error)
            return False
        self._registry.raise_retained_after(mailbox, trim_range.upto)
        with contextlib.suppress(WorkerNotFound):
            await mailbox.submit(partial(decisions.trim, trim_range=trim_range, state_at=state_at))
            self._tenant_events.subtract(trim_range)
        return True

    def _stop_trimming(self, worker_id: WorkerId, error: StoreCorrupt) -> None:
        """Stop trimming a Worker whose state cannot be read, so that others are trimmed."""
        self._untrimmable.add(worker_id)
        log.error("stopped trimming the events of a Worker", extra={"worker_id": worker_id, "reason": error})

    async def _forget_surplus(self) -> None:
        """Bring the numbers of diagnostics and runtime events below their limits.

        A full disk leaves gaps in the ids of runtime events, so the store has to count them.
        """
        most = self.limits.max_runtime_events
        diagnostics = self._diagnostics.surplus(self.limits.max_diagnostics)
        events = max(0, self._sequencer.newest_runtime_event - most)
        if not diagnostics and events <= self._forgotten_events + most // SLACK:
            return
        forgotten = Forgotten(diagnostics=diagnostics, runtime_events_left=most)
        await self._sequencer.commit_and_apply(
            Change(forgotten=forgotten), partial(self._diagnostics.drop, diagnostics)
        )
        self._forgotten_events = events

    def _has_surplus_keys(self) -> bool:
        return self._sequencer.idempotency.surplus > self.limits.max_idempotency_keys // SLACK

    async def _forget_keys(self) -> None:
        """Drop the idempotency records that have expired, or are too many."""
        keys = self._sequencer.idempotency
        upto = keys.due(self._clock.unix_ms())
        if upto > keys.forgotten:
            await self._sequencer.commit_and_apply(
                Change(forgotten=Forgotten(idempotency=upto)), partial(keys.note_forgotten, upto)
            )


def _lowered(limit: int) -> int:
    return limit - limit // SLACK
