"""The scope of a log: the events of one Worker, or of all."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from runtimed.core.runtime import Runtime
from runtimed.core.state.change import EncodedEvent
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

    async def page(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
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

    async def page(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        return await self.runtime.events(self.ref, after, limit)


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

    async def page(self, after: int, limit: int | None = None) -> Sequence[EncodedEvent]:
        return await self.runtime.all_events(after, limit)


def scope_of(runtime: Runtime, ref: WorkerRef | None) -> Scope:
    """Return the scope of one Worker, or of all if `ref` is None."""
    return AllWorkers(runtime) if ref is None else OneWorker(runtime, ref)
