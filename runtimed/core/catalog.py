"""The Workers of a Runtime, in memory."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import attrs

from runtimed.core.change import Worker
from runtimed.core.labels import selects
from runtimed.core.lane import Lane
from runtimed.errors import StoreCorrupt, WorkerNotFound, WrongRuntime
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef
from runtimed.model.value import value
from runtimed.model.worker import WorkerStatus

DAMAGED = "store.worker_damaged"


@value
class WorkerFilter:
    """Which Workers to list, by id: those that match and come behind `after`, at most `limit`."""

    status: WorkerStatus | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    after: str = ""
    limit: int | None = None

    def matches(self, worker: Worker) -> bool:
        """Whether the Worker is one of them, wherever the page ends."""
        return (
            worker.worker_id > self.after
            and self.status in {None, worker.status}
            and selects(self.labels, worker.request.labels)
        )


class Catalog:
    """Lanes by Worker id, and what is wrong with the Workers that can't be served.

    Ids only grow, so that the Workers are in their order as they are added.
    `floor` is the highest of all Workers' floors: behind it every event of every Worker is retained.
    """

    def __init__(self, runtime_id: RuntimeId, damaged: Mapping[WorkerId, str]) -> None:
        self.floor = 0
        self._runtime_id = runtime_id
        self._lanes: dict[WorkerId, Lane] = {}
        self._damaged = dict(damaged)

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __contains__(self, worker_id: WorkerId) -> bool:
        return worker_id in self._lanes

    def add(self, lane: Lane) -> None:
        """Take a Worker in."""
        self._lanes[lane.worker.worker_id] = lane
        self.floor = max(self.floor, lane.floor)

    def remove(self, worker_id: WorkerId) -> None:
        """Take a Worker out, a damaged one too."""
        self._lanes.pop(worker_id, None)
        self._damaged.pop(worker_id, None)

    @property
    def damaged(self) -> Collection[WorkerId]:
        """The Workers that can't be served."""
        return self._damaged.keys()

    def is_damaged(self, worker_id: WorkerId) -> bool:
        """Whether this is a Worker that can't be served."""
        return worker_id in self._damaged

    def damage(self) -> tuple[Diagnostic, ...]:
        """What there is to say of the Workers that can't be served."""
        return tuple(Diagnostic(DAMAGED, "error", why, name) for name, why in sorted(self._damaged.items()))

    def raise_floor(self, lane: Lane, sequence: int) -> None:
        """Nothing of this Worker is read from up to this sequence any more."""
        lane.floor = max(lane.floor, sequence)
        self.floor = max(self.floor, sequence)

    def find(self, worker_id: WorkerId) -> Lane | None:
        """A Worker, a damaged one too, or None."""
        return self._lanes.get(worker_id)

    def lane(self, ref: WorkerRef) -> Lane:
        """A Worker that is to be served. Raises WrongRuntime, WorkerNotFound, StoreCorrupt."""
        if ref.runtime_id != self._runtime_id:
            raise WrongRuntime(f"runtime_id: this is {self._runtime_id}")
        if ref.worker_id in self._damaged:
            raise StoreCorrupt(self._damaged[ref.worker_id])
        lane = self._lanes.get(ref.worker_id)
        if lane is None:
            raise WorkerNotFound(ref.worker_id)
        return lane

    def select(self, wanted: WorkerFilter) -> list[Worker]:
        """The rows of the Workers that are wanted, by id."""
        names = list(self._lanes)
        rows = (self._lanes[name].worker for name in names[bisect_right(names, wanted.after) :])
        return list(islice(filter(wanted.matches, rows), wanted.limit))

    def count(self) -> Counter[WorkerStatus]:
        """How many Workers have each status."""
        return Counter(lane.worker.status for lane in self._lanes.values())
