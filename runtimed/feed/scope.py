"""Where the events of a feed come from: one Worker, or all of them."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from runtimed.core.runtime import Runtime
from runtimed.core.state.change import EncodedEvent
from runtimed.model.identity import WorkerRef


class Scope(Protocol):
    """Published events, in the order of their sequences."""

    @property
    def newest(self) -> int:
        """The sequence of the newest one, 0 for none."""

    @property
    def retained_after(self) -> int:
        """The sequence of the newest one that is no longer retained, 0 for none."""

    @property
    def over(self) -> bool:
        """Whether there will be no newer one."""

    async def page(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """The first page behind a sequence.

        Raises CursorExpired where not all behind it is retained, LimitTooLarge, and StoreError.
        """


@attrs.frozen
class OneWorker:
    """The events of one Worker. Everything raises WorkerNotFound once it is deleted."""

    runtime: Runtime
    ref: WorkerRef

    @property
    def newest(self) -> int:
        """As Scope.newest."""
        return self.runtime.newest_sequence(self.ref)

    @property
    def retained_after(self) -> int:
        """As Scope.retained_after."""
        return self.runtime.retained_after(self.ref)

    @property
    def over(self) -> bool:
        """As Scope.over."""
        return self.runtime.is_over(self.ref)

    async def page(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """As Scope.page."""
        return await self.runtime.events(self.ref, after, limit)


@attrs.frozen
class AllWorkers:
    """The events of all Workers that are not deleted."""

    runtime: Runtime

    @property
    def newest(self) -> int:
        """As Scope.newest."""
        return self.runtime.head

    @property
    def retained_after(self) -> int:
        """As Scope.retained_after."""
        return self.runtime.fleet_retained_after

    @property
    def over(self) -> bool:
        """As Scope.over."""
        return False

    async def page(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        """As Scope.page."""
        return await self.runtime.all_events(after, limit)


def scope_of(runtime: Runtime, ref: WorkerRef | None) -> Scope:
    """The scope of one Worker, or of all."""
    return AllWorkers(runtime) if ref is None else OneWorker(runtime, ref)
