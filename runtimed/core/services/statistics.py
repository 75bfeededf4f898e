"""The figures of a Runtime that operators watch."""

import asyncio
from collections import Counter
from collections.abc import Mapping

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.histogram import CommitHistograms
from runtimed.core.ports import Store
from runtimed.core.services import views
from runtimed.core.services.lifecycle import Lifecycle
from runtimed.model.execution import LossReason, Outcome, RunState, WorkerStatus
from runtimed.model.runtime import StoreKind

SLICE_WORKERS = 2_000
"""The Workers that are counted before the event loop does other work."""

OTHER = "other"
"""Stands for the profile of a Worker whose backend has none."""

NO_PROGRAM = "no_program"
"""Stands for the mechanism of a Worker that runs no program, such as one of `builtin:echo`."""


@attrs.frozen
class WorkerCounts:
    """How many Workers there are.

    Attributes:
        by_state: By status and run state, as clients see them.
        by_profile: By the profile that they were spawned with, and by what confines their programs; only Workers
            that a backend runs.
        permissions: How many permission requests of all Workers are pending.
    """

    by_state: Counter[tuple[WorkerStatus, RunState]] = attrs.field(factory=Counter)
    by_profile: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    permissions: int = 0


class Statistics:
    """Counts what a Runtime has done since its start, and what it holds now."""

    def __init__(self, store: Store, registry: WorkerRegistry, lifecycle: Lifecycle) -> None:
        self._store = store
        self._registry = registry
        self._lifecycle = lifecycle

    @property
    def store_kind(self) -> StoreKind:
        """The kind of store."""
        return self._store.kind

    @property
    def spawns(self) -> Mapping[Outcome, int]:
        """How often a backend was asked to run a Worker, by its answer."""
        return self._lifecycle.spawns

    @property
    def losses(self) -> Mapping[LossReason, int]:
        """How many programs of Workers were lost, by reason."""
        return self._lifecycle.losses

    @property
    def commits(self) -> CommitHistograms:
        """The commits of the store."""
        return self._store.commit_histograms

    @property
    def event_bytes(self) -> int:
        """The bytes of all retained events."""
        return self._store.event_bytes

    @property
    def store_bytes(self) -> int:
        """The bytes that the store has on the disk."""
        return self._store.size_bytes

    @property
    def free_bytes(self) -> int | None:
        """The bytes that the disk of the store has left. None if the store has no disk."""
        return self._store.free_bytes

    async def workers(self) -> WorkerCounts:
        """Count the Workers, with pauses for other work."""
        by_state: Counter[tuple[WorkerStatus, RunState]] = Counter()
        by_profile: Counter[tuple[str, str]] = Counter()
        permissions = 0
        for index, mailbox in enumerate(tuple(self._registry), 1):
            worker = mailbox.worker
            by_state[worker.status, views.run_state(worker)] += 1
            permissions += len(mailbox.activity.permissions)
            if worker.execution.backend == "connected":
                by_profile[mailbox.profile or OTHER, _mechanism(mailbox)] += 1
            if not index % SLICE_WORKERS:
                await asyncio.sleep(0)
        return WorkerCounts(by_state, by_profile, permissions)


def _mechanism(mailbox: Mailbox) -> str:
    return NO_PROGRAM if mailbox.sandbox is None else mailbox.sandbox.mechanism
