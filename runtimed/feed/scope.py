"""The scope of a log: the events of one Worker, of the Workers of one tenant, or of all."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from runtimed.core.runtime import Runtime
from runtimed.core.state.change import EncodedEvent, EventPage
from runtimed.model.identity import WorkerRef


class Scope(Protocol):
    """Published events in the order of their sequences."""

    @property
    def newest(self) -> int:
        """The sequence of the newest event, 0 for none."""

    @property
    def retained_after(self) -> int:
        """The sequence after which events are retained, 0 if all are."""

    @property
    def is_over(self) -> bool:
        """Whether no newer events can come."""

    async def page(self, after: int, limit: int | None = None) -> EventPage:
        """Return the first page of events after a sequence, oldest first.

        Args:
            after: The sequence.
            limit: The most events to return, or None for the Runtime's limit.

        Raises:
            CursorExpired: Not all events after `after` are retained.
            LimitTooLarge: `limit` is above the Runtime's limit.
            StoreError: The store could not be read.
        """


@attrs.frozen
class OneWorker:
    """The events of one Worker. Every member raises WorkerNotFound once the Worker is deleted."""

    runtime: Runtime
    ref: WorkerRef

    @property
    def newest(self) -> int:
        return self.runtime.newest_sequence(self.ref)

    @property
    def retained_after(self) -> int:
        return self.runtime.retained_after(self.ref)

    @property
    def is_over(self) -> bool:
        return self.runtime.is_over(self.ref)

    async def page(self, after: int, limit: int | None = None) -> EventPage:
        newest = self.newest
        events = await self.runtime.events(self.ref, after, limit)
        return _page(events, max(after, newest))


@attrs.frozen
class AllWorkers:
    """The events of all Workers that are not deleted."""

    runtime: Runtime

    @property
    def newest(self) -> int:
        return self.runtime.head

    @property
    def retained_after(self) -> int:
        return self.runtime.fleet_retained_after

    @property
    def is_over(self) -> bool:
        return False

    async def page(self, after: int, limit: int | None = None) -> EventPage:
        newest = self.newest
        return _page(await self.runtime.all_events(after, limit), max(after, newest))


@attrs.frozen
class OneTenant(AllWorkers):
    """The events of the Workers of one tenant that are not deleted."""

    tenant: str

    @property
    def retained_after(self) -> int:
        return self.runtime.tenant_retained_after(self.tenant)

    async def page(self, after: int, limit: int | None = None) -> EventPage:
        return await self.runtime.tenant_events(self.tenant, after, limit)


def scope_of(runtime: Runtime, ref: WorkerRef | None, tenant: str | None = None) -> Scope:
    """Return the scope of one Worker, or if `ref` is None of the Workers of a tenant, or of all."""
    if ref is not None:
        return OneWorker(runtime, ref)
    return AllWorkers(runtime) if tenant is None else OneTenant(runtime, tenant)


def _page(events: Sequence[EncodedEvent], end: int) -> EventPage:
    return EventPage(events, events[-1].sequence if events else end)
