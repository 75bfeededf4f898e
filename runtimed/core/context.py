"""What the parts of a started Runtime share."""

import logging
from collections.abc import Awaitable, Callable

import attrs

from runtimed.core.activity import Activity
from runtimed.core.catalog import Catalog
from runtimed.core.change import Worker
from runtimed.core.lane import Lane
from runtimed.core.limits import Limits
from runtimed.core.pages import Pages
from runtimed.core.pipeline import Pipeline
from runtimed.core.ports import Answer, Clock, ExecutionBackend, Store
from runtimed.core.remarks import Remarks
from runtimed.errors import RuntimeStopped
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
    pipeline: Pipeline
    catalog: Catalog
    remarks: Remarks
    pages: Pages
    on_turn: Callable[[Lane], None] = lambda _lane: None
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
        for lane in self.catalog:
            lane.still = True

    def lane(self, worker: Worker, activity: Activity) -> Lane:
        """A lane for a Worker, which the catalog does not have yet."""
        return Lane(self.pipeline, worker, activity, self.on_turn)


async def ask(answer: Awaitable[Answer]) -> Answer:
    """A backend's answer, in Unicode; one that fails instead of answering has answered that it failed."""
    try:
        found = await answer
        message = found.message and found.message.encode(errors="replace").decode()
        return Answer(found.outcome, message, found.restart)
    except Exception:
        log.exception("the execution backend failed")
        return Answer("errored", "the execution backend failed; the daemon's log has the details")
