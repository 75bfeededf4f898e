"""Create Workers, each with its initial input."""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

import attrs

from runtimed.core.engine.worker_registry import WorkerRegistry
from runtimed.core.services.bundles import Bundles
from runtimed.core.services.idempotency import Idempotency
from runtimed.core.services.inputs import Inputs
from runtimed.core.services.lifecycle import Lifecycle
from runtimed.core.services.queries import Queries
from runtimed.core.state import decisions
from runtimed.core.state.attachment_rules import check_attachments
from runtimed.core.state.change import IdempotencyRecord
from runtimed.core.state.labels import narrowed
from runtimed.errors import RequestError, RuntimedError, StateError, StoreFull
from runtimed.model.execution import Execution
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import RuntimeId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.principal import Principal
from runtimed.model.worker import CreateWorkerRequest, WorkerDetail

INITIAL_INPUT = "initial_input"
"""The field of a request, and the name of its part among the idempotency keys."""

log = logging.getLogger(__name__)


class Creations:
    """Creates Workers, and gives each its initial input once it is spawned.

    The initial input is a Change of its own. If a crash comes between the two, a repeat of the request with the same
    idempotency key gives the input then.
    """

    def __init__(
        self,
        runtime_id: RuntimeId,
        lifecycle: Lifecycle,
        inputs: Inputs,
        bundles: Bundles,
        registry: WorkerRegistry,
        queries: Queries,
        idempotency: Idempotency,
    ) -> None:
        self._runtime_id = runtime_id
        self._lifecycle = lifecycle
        self._inputs = inputs
        self._bundles = bundles
        self._registry = registry
        self._queries = queries
        self._idempotency = idempotency
        self._tasks: set[asyncio.Task[WorkerDetail]] = set()

    async def create(
        self, request: CreateWorkerRequest, key: IdempotencyKey | None, principal: Principal
    ) -> WorkerDetail:
        """Create a Worker, as Runtime.create_worker says."""
        if principal.labels:
            request = attrs.evolve(request, labels=narrowed(request.labels, principal.labels))
        first = partial(self._create, request, key, principal)
        if key is None:
            return await first()
        again = partial(self._create_again, request.initial_input, key, principal)
        return await self._idempotency.once(key, first, again)

    async def _create(
        self, request: CreateWorkerRequest, key: IdempotencyKey | None, principal: Principal
    ) -> WorkerDetail:
        message = request.initial_input
        if message is None:
            return await self._lifecycle.create(request, self._bundles.of_tenant(principal.tenant), key, principal)
        decisions.check_initial_input(message)
        await asyncio.to_thread(check_attachments, message.attachments, f"{INITIAL_INPUT}.attachments")
        bare = attrs.evolve(request, initial_input=None)
        return await self._finished(self._create_and_begin(bare, message, key, principal))

    async def _create_and_begin(
        self, request: CreateWorkerRequest, message: WorkerInput, key: IdempotencyKey | None, principal: Principal
    ) -> WorkerDetail:
        created = await self._lifecycle.create(request, self._bundles.of_tenant(principal.tenant), key, principal)
        if created.execution.backend == "connected":
            await self._begin(created.worker_ref, message, key, principal)
        return self._queries.worker(created.worker_ref)

    async def _create_again(
        self, message: WorkerInput | None, key: IdempotencyKey, principal: Principal, record: IdempotencyRecord
    ) -> WorkerDetail:
        """Answer a repeat: wait for the spawn, and give the initial input if a crash has kept it from being given."""
        ref = WorkerRef(self._runtime_id, record.worker_id)
        await self._lifecycle.created(record.worker_id)
        execution = self._registry.mailbox(ref, principal).worker.execution
        if message is not None and not self._is_given(key) and _was_cut(execution):
            await self._begin(ref, message, key, principal)
        return self._queries.worker(ref)

    def _is_given(self, key: IdempotencyKey) -> bool:
        return self._idempotency.find(key.part(INITIAL_INPUT)) is not None

    async def _begin(
        self, ref: WorkerRef, message: WorkerInput, key: IdempotencyKey | None, principal: Principal
    ) -> None:
        """Give the initial input. A refusal shows in the Worker's `execution`."""
        part = None if key is None else key.part(INITIAL_INPUT)
        try:
            await self._inputs.send_or_record_refusal(ref, message, part, principal.actor)
        except (RequestError, StateError, StoreFull) as error:
            fields = {"worker_id": ref.worker_id, "reason": error.message}
            log.info("the initial input was refused", extra=fields)

    async def _finished(self, work: Coroutine[Any, Any, WorkerDetail]) -> WorkerDetail:
        """Return the result of a task that goes on if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[WorkerDetail]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and isinstance(error := task.exception(), RuntimedError):
            log.debug("a Worker was not created", extra={"reason": error.message})

    async def close(self) -> None:
        """Wait for what was begun."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _was_cut(execution: Execution) -> bool:
    """Return whether nothing was refused since the Worker was created: its spawn was cut, or is accepted."""
    last = execution.last_result
    return last is None or (last.operation, last.outcome) == ("spawn", "accepted")
