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
from runtimed.model.execution import WorkerStatus
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef
from runtimed.model.value import value

DAMAGED = "store.worker_damaged"


@value
class WorkerFilter:
    """Which Workers to list, by id.

    Attributes:
        status: Only Workers with this status, or None for any.
        labels: Only Workers with all of these labels.
        after: Only Workers whose id comes after this one.
        limit: At most this many, or None for all.
        name: Only Workers with this name, or None for any. Several may have it.
    """

    status: WorkerStatus | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    after: str = ""
    limit: int | None = None
    name: str | None = None

    def matches(self, worker: Worker) -> bool:
        """Return whether the Worker matches, apart from the limit."""
        return (
            worker.worker_id > self.after
            and self.status in {None, worker.status}
            and self.name in {None, worker.request.name}
            and selects(self.labels, worker.request.labels)
        )


class WorkerRegistry:
    """The mailboxes of Workers by id, and the Workers that cannot be served.

    Ids only grow, so insertion order is the order of ids. After the sequence `retained_after` every event of every
    Worker is retained.
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
        """Add a Worker."""
        self._mailboxes[mailbox.worker.worker_id] = mailbox
        self.retained_after = max(self.retained_after, mailbox.retained_after)

    def remove(self, worker_id: WorkerId) -> None:
        """Remove a Worker, a damaged one too."""
        self._mailboxes.pop(worker_id, None)
        self._damaged.pop(worker_id, None)

    @property
    def damaged(self) -> Collection[WorkerId]:
        """The Workers that cannot be served: their rows are damaged."""
        return self._damaged.keys()

    def is_damaged(self, worker_id: WorkerId) -> bool:
        """Return whether this Worker cannot be served."""
        return worker_id in self._damaged

    def damage(self) -> tuple[Diagnostic, ...]:
        """Return a diagnostic for each Worker that cannot be served."""
        return tuple(Diagnostic(DAMAGED, "error", why, name) for name, why in sorted(self._damaged.items()))

    def raise_retained_after(self, mailbox: Mailbox, sequence: int) -> None:
        """Refuse to read this Worker's events up to this sequence from now on."""
        mailbox.retained_after = max(mailbox.retained_after, sequence)
        self.retained_after = max(self.retained_after, sequence)

    def find(self, worker_id: WorkerId) -> Mailbox | None:
        """Return a Worker, a damaged one too, or None."""
        return self._mailboxes.get(worker_id)

    def mailbox(self, ref: WorkerRef) -> Mailbox:
        """Return the mailbox of a Worker.

        Raises:
            WrongRuntime: The reference names another Runtime.
            WorkerNotFound: There is no such Worker.
            StoreCorrupt: The Worker is damaged.
        """
        if ref.runtime_id != self._runtime_id:
            raise WrongRuntime(f"runtime_id: this is {self._runtime_id}")
        if ref.worker_id in self._damaged:
            raise StoreCorrupt(self._damaged[ref.worker_id])
        mailbox = self._mailboxes.get(ref.worker_id)
        if mailbox is None:
            raise WorkerNotFound(ref.worker_id)
        return mailbox

    def select(self, wanted: WorkerFilter) -> list[Mailbox]:
        """Return the Workers that match, by id."""
        names = list(self._mailboxes)
        found = (self._mailboxes[name] for name in names[bisect_right(names, wanted.after) :])
        return list(islice((mailbox for mailbox in found if wanted.matches(mailbox.worker)), wanted.limit))

    def count(self) -> Counter[WorkerStatus]:
        """Return how many Workers have each status."""
        return Counter(mailbox.worker.status for mailbox in self._mailboxes.values())
