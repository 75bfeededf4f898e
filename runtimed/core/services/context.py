"""What the parts of a started Runtime share."""

import logging
from collections.abc import Awaitable, Callable

import attrs

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.limits import Limits
from runtimed.core.ports import Clock, ExecutionBackend, Store
from runtimed.core.services.diagnostics import Diagnostics
from runtimed.core.services.transcript_cache import TranscriptCache
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Worker
from runtimed.errors import RuntimeStopped
from runtimed.model.execution import BackendAnswer
from runtimed.model.identity import RuntimeId

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Context:
    """The store, the backend, and what is known of Workers. Until `closing` is set, requests are taken.

    `on_turn` is told where an input that has waited is to be given to the backend.
    """

    runtime_id: RuntimeId
    store: Store
    backend: ExecutionBackend | None
    clock: Clock
    limits: Limits
    sequencer: Sequencer
    registry: WorkerRegistry
    diagnostics: Diagnostics
    pages: TranscriptCache
    on_offer: Callable[[Mailbox], None] = lambda _mailbox: None
    closing: bool = False

    @property
    def attached(self) -> ExecutionBackend:
        """The backend, where there must be one."""
        if self.backend is None:
            raise RuntimeStopped
        return self.backend

    def check_open(self) -> None:
        """Raises RuntimeStopped once requests are taken no more."""
        if self.closing:
            raise RuntimeStopped

    def close(self) -> None:
        """Take no more requests, and leave to the next life the inputs that wait."""
        self.closing = True
        for mailbox in self.registry:
            mailbox.dispatch_paused = True

    def mailbox(self, worker: Worker, activity: Activity) -> Mailbox:
        """A lane for a Worker, which the catalog does not have yet."""
        return Mailbox(self.sequencer, worker, activity, self.on_offer)


async def ask(answer: Awaitable[BackendAnswer]) -> BackendAnswer:
    """A backend's answer, in Unicode; one that fails instead of answering has answered that it failed."""
    try:
        found = await answer
        message = found.message and found.message.encode(errors="replace").decode()
        return BackendAnswer(found.outcome, message, found.restart)
    except Exception:
        log.exception("the execution backend failed")
        return BackendAnswer("errored", "the execution backend failed; the daemon's log has the details")
