"""The Workers of a Runtime, in memory."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.state.change import Worker
from runtimed.core.state.labels import selects
from runtimed.errors import StoreCorrupt, WorkerNotFound, WrongRuntime
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.execution import WorkerStatus
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef
from runtimed.model.principal import ADMIN, Principal
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


@attrs.define
class TenantWorkers:
    """The Workers of one tenant.

    Attributes:
        mailboxes: Their mailboxes by id.
        retained_after: After this sequence every event of them is retained.
    """

    mailboxes: dict[WorkerId, Mailbox] = attrs.field(factory=dict)
    retained_after: int = 0


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
        self._tenants: dict[str, TenantWorkers] = {}

    def __len__(self) -> int:
        return len(self._mailboxes)

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(self._mailboxes.values())

    def __contains__(self, worker_id: WorkerId) -> bool:
        return worker_id in self._mailboxes

    def add(self, mailbox: Mailbox) -> None:
        """Add a Worker."""
        self._mailboxes[mailbox.worker.worker_id] = mailbox
        self._note_retained(mailbox)
        if mailbox.worker.tenant is not None:
            self._tenants[mailbox.worker.tenant].mailboxes[mailbox.worker.worker_id] = mailbox

    def remove(self, worker_id: WorkerId) -> None:
        """Remove a Worker, a damaged one too."""
        mailbox = self._mailboxes.pop(worker_id, None)
        self._damaged.pop(worker_id, None)
        if mailbox is not None and mailbox.worker.tenant is not None:
            workers = self._tenants[mailbox.worker.tenant]
            del workers.mailboxes[worker_id]
            if not workers.mailboxes:
                del self._tenants[mailbox.worker.tenant]

    def of_tenant(self, tenant: str) -> TenantWorkers:
        """Return the Workers of a tenant as they are now."""
        return self._tenants.get(tenant) or TenantWorkers()

    @property
    def damaged(self) -> Collection[WorkerId]:
        """The Workers that cannot be served: their rows are damaged."""
        return self._damaged.keys()

    def is_damaged(self, worker_id: WorkerId) -> bool:
        """Return whether this Worker cannot be served."""
        return worker_id in self._damaged

    def is_visible(self, worker_id: WorkerId, principal: Principal) -> bool:
        """Return whether a client may know of a Worker. One that is narrowed sees no Worker that does not exist."""
        if principal.sees_all:
            return True
        mailbox = self._mailboxes.get(worker_id)
        return mailbox is not None and principal.sees(mailbox.worker.tenant, mailbox.worker.request.labels)

    def visible(self, principal: Principal) -> Iterable[Mailbox]:
        """Return the Workers that a client may know of, by id."""
        held = self._of_tenant_or_all(principal).values()
        return [one for one in held if self.is_visible(one.worker.worker_id, principal)] if principal.labels else held

    def visible_ids(self, principal: Principal) -> frozenset[WorkerId]:
        """Return the ids of the Workers that a client may know of."""
        return frozenset(mailbox.worker.worker_id for mailbox in self.visible(principal))

    def _of_tenant_or_all(self, principal: Principal) -> Mapping[WorkerId, Mailbox]:
        return self._mailboxes if principal.tenant is None else self.of_tenant(principal.tenant).mailboxes

    def check_visible(self, ref: WorkerRef, principal: Principal) -> None:
        """Raise WorkerNotFound if a client may not know of a Worker. Does nothing for one that sees all."""
        if not self.is_visible(ref.worker_id, principal):
            raise WorkerNotFound(ref.worker_id)

    def damage(self) -> tuple[Diagnostic, ...]:
        """Return a diagnostic for each Worker that cannot be served."""
        return tuple(Diagnostic(DAMAGED, "error", why, name) for name, why in sorted(self._damaged.items()))

    def raise_retained_after(self, mailbox: Mailbox, sequence: int) -> None:
        """Refuse to read this Worker's events up to this sequence from now on. Does nothing for a deleted Worker."""
        if self._mailboxes.get(mailbox.worker.worker_id) is mailbox:
            mailbox.retained_after = max(mailbox.retained_after, sequence)
            self._note_retained(mailbox)

    def _note_retained(self, mailbox: Mailbox) -> None:
        self.retained_after = max(self.retained_after, mailbox.retained_after)
        if mailbox.worker.tenant is not None:
            workers = self._tenants.setdefault(mailbox.worker.tenant, TenantWorkers())
            workers.retained_after = max(workers.retained_after, mailbox.retained_after)

    def find(self, worker_id: WorkerId) -> Mailbox | None:
        """Return a Worker, a damaged one too, or None."""
        return self._mailboxes.get(worker_id)

    def mailbox(self, ref: WorkerRef, principal: Principal = ADMIN) -> Mailbox:
        """Return the mailbox of a Worker.

        Raises:
            WrongRuntime: The reference names another Runtime.
            WorkerNotFound: There is no such Worker, or the client may not know of it.
            StoreCorrupt: The Worker is damaged.
        """
        if ref.runtime_id != self._runtime_id:
            raise WrongRuntime(f"runtime_id: this is {self._runtime_id}")
        if not principal.sees_all:
            self.check_visible(ref, principal)
        if ref.worker_id in self._damaged:
            raise StoreCorrupt(self._damaged[ref.worker_id])
        mailbox = self._mailboxes.get(ref.worker_id)
        if mailbox is None:
            raise WorkerNotFound(ref.worker_id)
        return mailbox

    def select(self, wanted: WorkerFilter, principal: Principal = ADMIN) -> list[Mailbox]:
        """Return the Workers that match and that a client may know of, by id."""
        held = self._of_tenant_or_all(principal)
        names = list(held)
        later = names[bisect_right(names, wanted.after) :]
        seen = (name for name in later if self.is_visible(name, principal)) if principal.labels else later
        found = (held[name] for name in seen)
        return list(islice((mailbox for mailbox in found if wanted.matches(mailbox.worker)), wanted.limit))

    def count(self, principal: Principal = ADMIN) -> Counter[WorkerStatus]:
        """Return how many Workers that a client may know of have each status."""
        return Counter(mailbox.worker.status for mailbox in self.visible(principal))
