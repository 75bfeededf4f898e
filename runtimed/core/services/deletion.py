"""Delete Workers, and remove what is left of them in the background."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from functools import partial

from runtimed.core.engine.backend_client import BackendClient
from runtimed.core.engine.keyed_tasks import KeyedTasks
from runtimed.core.engine.mailbox import STORE_RETRY_S
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.ports import Store, WorkspaceHost
from runtimed.core.services.admission import Admission
from runtimed.core.services.diagnostics import Diagnostics
from runtimed.core.services.lifecycle import Lifecycle
from runtimed.core.services.transcript_cache import TranscriptCache
from runtimed.core.state import decisions
from runtimed.core.state.change import Change
from runtimed.errors import StoreFull, WorkerRunning, WorkspaceDirty
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId, WorkerRef

PURGE_S = 60.0
"""How long retention waits for the space of deleted Workers before it trims others."""

log = logging.getLogger(__name__)


class Deletion:
    """Deletes Workers. One small Change deletes a Worker; its rows and files follow in the background."""

    def __init__(
        self,
        store: Store,
        backend: BackendClient,
        workspaces: WorkspaceHost | None,
        sequencer: Sequencer,
        registry: WorkerRegistry,
        diagnostics: Diagnostics,
        transcripts: TranscriptCache,
        admission: Admission,
        lifecycle: Lifecycle,
    ) -> None:
        self._store = store
        self._backend = backend
        self._workspaces = workspaces
        self._sequencer = sequencer
        self._registry = registry
        self._diagnostics = diagnostics
        self._transcripts = transcripts
        self._admission = admission
        self._lifecycle = lifecycle
        self._deleting: KeyedTasks[None] = KeyedTasks()
        self._purging: KeyedTasks[None] = KeyedTasks()

    async def delete(self, ref: WorkerRef, *, force: bool = False) -> None:
        """Delete a Worker, as Runtime.delete_worker says."""
        name = ref.worker_id
        self._check_known(ref)
        if name not in self._deleting and self._workspaces is not None and not force:
            await self._check_saved(ref, self._workspaces)
        if name not in self._deleting:
            self._check_known(ref)
            self._deleting.begin(name, self._delete(name))
        await self._deleting.outcome(name)

    def _check_known(self, ref: WorkerRef) -> None:
        """Raise WorkerNotFound if there is no such Worker, not even a damaged one."""
        if not self._registry.is_damaged(ref.worker_id):
            self._registry.mailbox(ref)

    async def _check_saved(self, ref: WorkerRef, workspaces: WorkspaceHost) -> None:
        """Raise WorkspaceDirty if unsaved work would be lost with the Worker, WorkerRunning if it may still work."""
        if not self._registry.is_damaged(ref.worker_id):
            mailbox = self._registry.mailbox(ref)
            if not mailbox.worker.request.workspace_refs:
                return
            await mailbox.submit(decisions.do_nothing)
            if mailbox.worker.status == "running":
                raise WorkerRunning
        if unsaved := await workspaces.unsaved(ref.worker_id):
            raise WorkspaceDirty(unsaved)

    async def _delete(self, name: WorkerId) -> None:
        mailbox = self._registry.find(name)
        if mailbox is None or self._registry.is_damaged(name):
            await self._sequencer.commit_and_apply(Change(deleted=name), _apply_nothing)
        else:
            await mailbox.submit(decisions.delete_worker)
        self._lifecycle.forget(name)
        self._registry.remove(name)
        self._diagnostics.drop_worker(name)
        self._transcripts.forget(name)
        self._sequencer.forget(name)
        self.purge(name)

    def purge(self, name: WorkerId) -> None:
        """Begin to remove what is left of a deleted Worker. Nobody can read it any more."""
        self._purging.begin(name, self._purge(name))

    async def _purge(self, name: WorkerId) -> None:
        failure = await self._backend.delete(name)
        if name in self._diagnostics:  # of an earlier failure
            await _logged(self._mark_deleted(name), "cannot drop the diagnostic of a deleted Worker", name)
        finishing = asyncio.ensure_future(self._finish_purge(name, failure))
        try:
            await asyncio.shield(finishing)
        finally:
            await asyncio.wait([finishing])  # a close must not come between the two steps

    async def _finish_purge(self, name: WorkerId, failure: str | None) -> None:
        """Purge the store, and record then why the backend failed: in one transaction the store would forget it."""
        message = "cannot remove what is left of a deleted Worker; the next start tries again"
        await _logged(self._purge_store(name), message, name)
        if failure is not None:
            message = "cannot store the diagnostic of a deleted Worker"
            await _logged(self._record_failure(name, failure), message, name)

    async def _mark_deleted(self, name: WorkerId) -> None:
        """Store once more that a Worker is deleted: the next start deletes it again. Drops its diagnostics."""
        drop = partial(self._diagnostics.drop_worker, name)
        await self._sequencer.commit_and_apply(Change(deleted=name), drop)

    async def _record_failure(self, name: WorkerId, failure: str) -> None:
        await self._mark_deleted(name)
        message = f"the Worker is deleted, but some of its data is left: {failure}; the next start tries again"
        kept = (self._sequencer.number(Diagnostic("worker.delete_failed", "error", message, name)),)
        await self._sequencer.commit_and_apply(Change(diagnostics=kept), partial(self._diagnostics.keep, kept))

    async def _purge_store(self, name: WorkerId) -> None:
        """Remove rows until none is left or the Runtime closes. A full disk delays it."""
        purged = False
        while not purged and not self._admission.is_closed:
            try:
                purged = await self._store.purge(name)
            except StoreFull:
                await asyncio.sleep(STORE_RETRY_S)

    async def purged(self) -> None:
        """Wait until nothing is left of the Workers deleted so far, at most PURGE_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PURGE_S):
                await self._purging.join()

    async def close(self) -> None:
        """Wait for deletions, and break off purges: the next start continues them."""
        await self._deleting.join()
        await self._purging.cancel()


async def _logged(work: Awaitable[None], failure: str, name: WorkerId) -> None:
    try:
        await work
    except Exception:
        log.exception(failure, extra={"worker_id": name})


def _apply_nothing() -> None:
    """A damaged Worker has no state in memory to change."""
