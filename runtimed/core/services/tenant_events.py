"""The bytes of the events of tenants that may keep only so many."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.ports import Store
from runtimed.core.services.quotas import Quotas
from runtimed.core.state.change import EncodedEvent, TrimRange
from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId

log = logging.getLogger(__name__)


@attrs.define
class _Counted:
    """The bytes of the retained events of one Worker."""

    tenant: str
    size: int = 0


class TenantEvents:
    """Counts the bytes of the retained events of each tenant with a `max_event_bytes`.

    Events that are published are counted at once. Those from before are measured in the store, Worker by Worker.
    """

    def __init__(self, store: Store, registry: WorkerRegistry, quotas: Quotas) -> None:
        self._store = store
        self._registry = registry
        self._quotas = quotas
        self._workers: dict[WorkerId, _Counted] = {}
        self._totals: Counter[str] = Counter()
        self._unmeasured: set[WorkerId] = set()

    def begin(self, mailboxes: Iterable[Mailbox]) -> None:
        """Count the events of those of these Workers whose tenant has a limit, and of no others."""
        self._workers.clear()
        self._totals.clear()
        self._unmeasured = {mailbox.worker.worker_id for mailbox in mailboxes if self._is_limited(mailbox)}

    def add(self, mailbox: Mailbox, events: Sequence[EncodedEvent]) -> bool:
        """Count events that were published. Returns whether `measure` or a trim is due."""
        if not self._is_limited(mailbox):
            return False
        counted = self._workers.get(mailbox.worker.worker_id)
        if counted is None:
            self._unmeasured.add(mailbox.worker.worker_id)
            return True
        self._change(counted, sum(len(event.payload) for event in events))
        return self.surplus(counted.tenant) > 0

    def subtract(self, trimmed: TrimRange) -> None:
        """Count events no more that were trimmed."""
        if (counted := self._workers.get(trimmed.worker_id)) is not None:
            self._change(counted, -trimmed.size_bytes)

    def forget(self, worker_id: WorkerId) -> None:
        """Count the events of a deleted Worker no more."""
        self._unmeasured.discard(worker_id)
        if (counted := self._workers.pop(worker_id, None)) is not None:
            self._change(counted, -counted.size)

    async def measure(self) -> None:
        """Measure the events of the Workers that are not counted yet.

        Raises:
            StoreError: The store could not be read. The next call measures what is left.
        """
        while self._unmeasured:
            name = self._unmeasured.pop()
            mailbox = self._registry.find(name)
            if mailbox is None or mailbox.worker.tenant is None:
                continue
            counted = self._workers[name] = _Counted(mailbox.worker.tenant)  # published events are added to it
            try:
                size = await self._store.measure_events(name, mailbox.worker.last_sequence)
            except StoreCorrupt as error:
                log.error("counting only new events of a Worker", extra={"worker_id": name, "reason": error})
                continue
            except BaseException:
                self._measure_again(name, counted)
                raise
            if self._workers.get(name) is counted:
                self._change(counted, size)

    def _measure_again(self, worker_id: WorkerId, counted: _Counted) -> None:
        if self._workers.get(worker_id) is counted:
            self.forget(worker_id)
            self._unmeasured.add(worker_id)

    def overfull(self) -> list[str]:
        """Return the tenants that have more bytes than they may."""
        return [tenant for tenant in self._totals if self.surplus(tenant) > 0]

    def surplus(self, tenant: str, slack: int = 0) -> int:
        """Return by how many bytes a tenant exceeds its limit, less one `slack`th of it; at most 0 if it does not."""
        most = self._quotas.of(tenant).max_event_bytes
        if most is None:
            return 0
        return self._totals[tenant] - most + (most // slack if slack else 0)

    def total(self, tenant: str) -> int:
        """Return the bytes of a tenant that are counted."""
        return self._totals[tenant]

    def _change(self, counted: _Counted, by: int) -> None:
        counted.size += by
        self._totals[counted.tenant] += by

    def _is_limited(self, mailbox: Mailbox) -> bool:
        return self._quotas.of(mailbox.worker.tenant).max_event_bytes is not None
