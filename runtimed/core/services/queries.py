"""What can be read of Workers."""

from collections.abc import Mapping, Sequence

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.worker_registry import WorkerFilter
from runtimed.core.paging import PageSize
from runtimed.core.services import views
from runtimed.core.services.context import Context
from runtimed.core.services.retention import retained
from runtimed.core.state import decisions
from runtimed.core.state.change import EncodedEvent, StateAt
from runtimed.errors import StoreCorrupt
from runtimed.model.event import EventEnvelope
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.permission import WorkerPermission
from runtimed.model.transcript import TranscriptProjection
from runtimed.model.worker import WorkerDetail, WorkerSummary


class Queries:
    """Answers from what is in memory, and by pages from the store; it changes nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._registry = context.registry
        self._store = context.store
        self._limits = context.limits

    def workers(self, wanted: WorkerFilter) -> tuple[WorkerSummary, ...]:
        """See Runtime."""
        return tuple(views.summary(self._context.runtime_id, worker) for worker in self._registry.select(wanted))

    def worker(self, ref: WorkerRef) -> WorkerDetail:
        """See Runtime."""
        mailbox = self._registry.mailbox(ref)
        return views.detail(self._context.runtime_id, mailbox.worker, mailbox.retained_after)

    def permissions(self) -> tuple[WorkerPermission, ...]:
        """The requests that wait for an answer, of all Workers that can be served."""
        return tuple(
            WorkerPermission.of(mailbox.worker.worker_id, permission)
            for mailbox in self._registry
            if mailbox.activity.permissions and not self._registry.is_damaged(mailbox.worker.worker_id)
            for permission in mailbox.activity.permissions
        )

    def labels(self, worker_id: WorkerId) -> Mapping[str, str]:
        """See Runtime."""
        mailbox = self._registry.find(worker_id)
        return {} if mailbox is None else mailbox.worker.request.labels

    async def transcript(self, ref: WorkerRef, start: int, limit: int | None) -> TranscriptProjection:
        """See Runtime."""
        mailbox = self._registry.mailbox(ref)
        worker = mailbox.worker
        page = self._limits.transcript_page.at_most(limit, minimum=0)
        total, pages = worker.transcript_len, self._context.pages
        items = pages.find(ref.worker_id, start, page.items, total) if page.items else ()
        if items is None:
            entries = await self._store.read_entries(ref.worker_id, start, page)
            await self._check_there(mailbox, entries, expected=start < total)
            items = views.items(ref, (entry for entry in entries if entry.sequence <= total))
            pages.keep(ref.worker_id, start, page.items, total, items)
        end = start + len(items)
        next_start = end if items and end < total else None
        return TranscriptProjection(ref, start, page.items, total, items, next_start)

    async def snapshot(self, ref: WorkerRef, sequence: int | None) -> EventEnvelope:
        """See Runtime."""
        mailbox = self._registry.mailbox(ref)
        worker = mailbox.worker
        if sequence is None or sequence >= worker.last_sequence:
            state_at = StateAt(worker.transcript_len, mailbox.activity, worker.last_event_ms)
        else:
            async with retained(mailbox, sequence):
                state_at = await self._store.state_at(ref.worker_id, sequence)
        page = self._limits.snapshot_page
        entries = await self._store.newest_entries(ref.worker_id, state_at.transcript_len, page)
        await self._check_there(mailbox, entries, expected=state_at.transcript_len > 0)
        at = worker.last_sequence if sequence is None else sequence
        return views.snapshot(self._context.runtime_id, worker, at, entries, state_at)

    async def _check_there(self, mailbox: Mailbox, found: Sequence[object], *, expected: bool) -> None:
        """Raises WorkerNotFound where the store has nothing because a deletion is under way, else StoreCorrupt."""
        if expected and not found:
            await mailbox.submit(decisions.do_nothing)
            raise StoreCorrupt(f"what is stored of {mailbox.worker.worker_id} is missing")

    async def events(self, ref: WorkerRef, after: int, limit: int | None) -> Sequence[EncodedEvent]:
        """See Runtime."""
        mailbox = self._registry.mailbox(ref)
        page = self._events_page(limit)
        async with retained(mailbox, after):
            upto = mailbox.worker.last_sequence
            found = await self._store.read_events(ref.worker_id, after, upto, page) if after < upto else ()
        await self._check_there(mailbox, found, expected=after < upto)
        return found

    async def all_events(self, after: int, limit: int | None) -> Sequence[EncodedEvent]:
        """See Runtime."""
        page = self._events_page(limit)
        async with retained(self._registry, after):
            head = self._context.sequencer.head
            return await self._store.read_all_events(after, head, page) if after < head else ()

    def _events_page(self, limit: int | None) -> PageSize:
        return self._limits.replay_page if limit is None else self._limits.event_page.at_most(limit)
