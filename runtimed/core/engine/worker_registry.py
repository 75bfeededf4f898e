"""The Workers of a Runtime, in memory."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.state.change import Worker
from runtimed.core.state.labels import selects
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


class WorkerRegistry:
    """Lanes by Worker id, and what is wrong with the Workers that can't be served.

    Ids only grow, so that the Workers are in their order as they are added.
    `floor` is the highest of all Workers' floors: behind it every event of every Worker is retained.
    """

    def __init__(self, runtime_id: RuntimeId, damaged: Mapping[WorkerId, str]) -> None:
        self.retained_after = 0
        self._runtime_id = runtime_id
        self._mailboxes: dict[WorkerId, Mailbox] = {}
        self._damaged = dict(damaged)

    def __len__(self) -> int:
        return len(self._mailboxes)

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(self._mailboxes.values())

    def __contains__(self, worker_id: WorkerId) -> bool:
        return worker_id in self._mailboxes

    def add(self, mailbox: Mailbox) -> None:
        """Take a Worker in."""
        self._mailboxes[mailbox.worker.worker_id] = mailbox
        self.retained_after = max(self.retained_after, mailbox.retained_after)

    def remove(self, worker_id: WorkerId) -> None:
        """Take a Worker out, a damaged one too."""
        self._mailboxes.pop(worker_id, None)
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

    def raise_retained_after(self, mailbox: Mailbox, sequence: int) -> None:
        """Nothing of this Worker is read from up to this sequence any more."""
        mailbox.retained_after = max(mailbox.retained_after, sequence)
        self.retained_after = max(self.retained_after, sequence)

    def find(self, worker_id: WorkerId) -> Mailbox | None:
        """A Worker, a damaged one too, or None."""
        return self._mailboxes.get(worker_id)

    def mailbox(self, ref: WorkerRef) -> Mailbox:
        """A Worker that is to be served. Raises WrongRuntime, WorkerNotFound, StoreCorrupt."""
        if ref.runtime_id != self._runtime_id:
            raise WrongRuntime(f"runtime_id: this is {self._runtime_id}")
        if ref.worker_id in self._damaged:
            raise StoreCorrupt(self._damaged[ref.worker_id])
        mailbox = self._mailboxes.get(ref.worker_id)
        if mailbox is None:
            raise WorkerNotFound(ref.worker_id)
        return mailbox

    def select(self, wanted: WorkerFilter) -> list[Worker]:
        """The rows of the Workers that are wanted, by id."""
        names = list(self._mailboxes)
        rows = (self._mailboxes[name].worker for name in names[bisect_right(names, wanted.after) :])
        return list(islice(filter(wanted.matches, rows), wanted.limit))

    def count(self) -> Counter[WorkerStatus]:
        """How many Workers have each status."""
        return Counter(mailbox.worker.status for mailbox in self._mailboxes.values())
