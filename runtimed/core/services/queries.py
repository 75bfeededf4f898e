"""Read Workers: lists, details, transcripts, snapshots, events."""

from collections.abc import Mapping, Sequence

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerFilter, WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.paging import PageSize
from runtimed.core.ports import Store
from runtimed.core.services import views
from runtimed.core.services.retention import retained
from runtimed.core.services.transcript_cache import TranscriptCache
from runtimed.core.state import decisions
from runtimed.core.state.change import EncodedEvent, EventPage, StateAt
from runtimed.errors import StoreCorrupt
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import RuntimeId, WorkerId, WorkerRef
from runtimed.model.permission import WorkerPermission
from runtimed.model.principal import ADMIN, Principal
from runtimed.model.runtime import RuntimeEvent
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.worker import WorkerDetail, WorkerSummary


class Queries:
    """Answers from memory, and page by page from the store. Changes nothing."""

    def __init__(
        self,
        runtime_id: RuntimeId,
        store: Store,
        limits: Limits,
        sequencer: Sequencer,
        registry: WorkerRegistry,
        transcripts: TranscriptCache,
    ) -> None:
        self._runtime_id = runtime_id
        self._store = store
        self.limits = limits
        self._sequencer = sequencer
        self._registry = registry
        self._transcripts = transcripts

    def workers(self, wanted: WorkerFilter, principal: Principal) -> tuple[WorkerSummary, ...]:
        """Return the Workers that match and that a client sees, by id."""
        found = self._registry.select(wanted, principal)
        return tuple(views.summary(self._runtime_id, mailbox.worker, mailbox.sandbox) for mailbox in found)

    def worker(self, ref: WorkerRef, principal: Principal = ADMIN) -> WorkerDetail:
        """Return one Worker."""
        mailbox = self._registry.mailbox(ref, principal)
        return views.detail(self._runtime_id, mailbox.worker, mailbox.retained_after, mailbox.sandbox)

    def permissions(self, principal: Principal) -> tuple[WorkerPermission, ...]:
        """Return the pending permission requests of all Workers that a client sees and that can be served."""
        return tuple(
            WorkerPermission.of(mailbox.worker.worker_id, permission)
            for mailbox in self._registry.visible(principal)
            if mailbox.activity.permissions and not self._registry.is_damaged(mailbox.worker.worker_id)
            for permission in mailbox.activity.permissions
        )

    def labels(self, worker_id: WorkerId) -> Mapping[str, str]:
        """Return the labels of a Worker; none for an unknown one."""
        mailbox = self._registry.find(worker_id)
        return {} if mailbox is None else mailbox.worker.request.labels

    def tenant(self, worker_id: WorkerId) -> str | None:
        """Return the tenant of a Worker; None for an unknown one."""
        mailbox = self._registry.find(worker_id)
        return None if mailbox is None else mailbox.worker.tenant

    async def transcript(
        self, ref: WorkerRef, start: int, limit: int | None, principal: Principal
    ) -> TranscriptProjection:
        """Return a page of a transcript, as Runtime.transcript says."""
        mailbox = self._registry.mailbox(ref, principal)
        page = self.limits.transcript_page.at_most(limit, minimum=0)
        total, cache = mailbox.worker.transcript_len, self._transcripts
        items = cache.find(ref.worker_id, start, page.items, total) if page.items else ()
        if items is None:
            entries = await self._store.read_entries(ref.worker_id, start, page)
            await self._check_found(mailbox, entries, expected=start < total)
            items = views.items(ref, (entry for entry in entries if entry.sequence <= total))
            cache.keep(ref.worker_id, start, page.items, total, items)
        end = start + len(items)
        next_start = end if items and end < total else None
        return TranscriptProjection(ref, start, page.items, total, items, next_start)

    async def snapshot(self, ref: WorkerRef, sequence: int | None) -> EventEnvelope:
        """Return the state right after an event, as Runtime.snapshot says."""
        worker = self._registry.mailbox(ref).worker
        state = await self.state_at(ref, sequence)
        page = self.limits.snapshot_page
        entries = await self._store.newest_entries(ref.worker_id, state.transcript_len, page)
        await self._check_found(self._registry.mailbox(ref), entries, expected=state.transcript_len > 0)
        at = worker.last_sequence if sequence is None else sequence
        return views.snapshot(self._runtime_id, worker, at, entries, state)

    async def state_at(self, ref: WorkerRef, sequence: int | None) -> StateAt:
        """Return the state of a Worker right after the event with this sequence, or now. Raises CursorExpired."""
        mailbox = self._registry.mailbox(ref)
        worker = mailbox.worker
        if sequence is None or sequence >= worker.last_sequence:
            return StateAt(worker.transcript_len, mailbox.activity, worker.last_event_ms)
        async with retained(mailbox, sequence):
            return await self._store.state_at(ref.worker_id, sequence)

    async def _check_found(self, mailbox: Mailbox, found: Sequence[object], *, expected: bool) -> None:
        """Raise WorkerNotFound if nothing is found because the Worker is being deleted, else StoreCorrupt."""
        if expected and not found:
            await mailbox.submit(decisions.do_nothing)
            raise StoreCorrupt(f"stored data of {mailbox.worker.worker_id} is missing")

    async def events(self, ref: WorkerRef, after: int, limit: int | None) -> Sequence[EncodedEvent]:
        """Return a page of a Worker's events, as Runtime.events says."""
        mailbox = self._registry.mailbox(ref)
        page = self._event_page(limit)
        async with retained(mailbox, after):
            upto = mailbox.worker.last_sequence
            found = await self._store.read_events(ref.worker_id, after, upto, page) if after < upto else ()
        await self._check_found(mailbox, found, expected=after < upto)
        return found

    async def all_events(self, after: int, limit: int | None) -> Sequence[EncodedEvent]:
        """Return a page of all Workers' events, as Runtime.all_events says."""
        page = self._event_page(limit)
        async with retained(self._registry, after):
            head = self._sequencer.head
            return await self._store.read_all_events(after, head, page) if after < head else ()

    async def tenant_events(self, tenant: str, after: int, limit: int | None) -> EventPage:
        """Return a page of the events of a tenant's Workers, as Runtime.tenant_events says."""
        page = self._event_page(limit)
        async with retained(self._registry.of_tenant(tenant), after):
            head = self._sequencer.head
            if after >= head:
                return EventPage((), after)
            return await self._store.read_tenant_events(tenant, after, head, page)

    async def runtime_events(self, after: int, limit: int | None, principal: Principal) -> Sequence[RuntimeEvent]:
        """Return a page of runtime events, as Runtime.runtime_events says."""
        page = self.limits.event_page.at_most(limit)
        workers = self._registry.visible_ids(principal) if principal.labels else None
        return await self._store.read_runtime_events(after, page, principal.tenant, workers)

    def diagnostics(self, kept: Sequence[Diagnostic], principal: Principal) -> tuple[Diagnostic, ...]:
        """Return those of the diagnostics that are about Workers which a client sees."""
        return tuple(one for one in kept if self._is_visible(one.worker_id, principal))

    def _is_visible(self, worker_id: WorkerId | None, principal: Principal) -> bool:
        return worker_id is not None and self._registry.is_visible(worker_id, principal)

    def _event_page(self, limit: int | None) -> PageSize:
        return self.limits.replay_page if limit is None else self.limits.event_page.at_most(limit)
