"""Routes of Workers: create, read, send input to, and end them."""

from typing import Annotated, Literal

from runtimed.core.engine.worker_registry import WorkerFilter
from runtimed.core.runtime import Runtime
from runtimed.errors import (
    ConfigBundleDigestMismatch,
    ConfigBundleMissing,
    IdempotencyConflict,
    InvalidProfileSelector,
    InvalidRequest,
    InvalidWorkerId,
    RuntimeStopped,
    StoreFull,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
    WorkerNotFound,
    WorkerRunning,
    WorkspaceDirty,
)
from runtimed.http.errors import InvalidQuery
from runtimed.http.web.binding import Routes
from runtimed.http.web.labels import parse_labels, parse_name
from runtimed.http.web.query import Number
from runtimed.model.execution import WorkerStatus
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import worker_number
from runtimed.model.interaction import LifecycleRequest, WorkerInput
from runtimed.model.principal import Principal
from runtimed.model.worker import CreateWorkerRequest
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import InteractionResponse, LifecycleResponse, WorkerResponse, WorkersResponse

routes = Routes("workers")


@routes.get(paths.WORKERS, "read")
def list_workers(
    runtime: Runtime,
    principal: Principal,
    status: WorkerStatus | None = None,
    label: tuple[str, ...] = (),
    limit: Annotated[int | None, Number(minimum=1)] = None,
    after: str = "",
    name: str | None = None,
) -> WorkersResponse:
    """List Workers, by id: those with the given status, name and labels (KEY=VALUE), after the id `after`."""
    if after and worker_number(after) is None:
        raise InvalidQuery('after: expected "worker-" and 8 lower-case hex digits')
    count = None if limit is None else limit + 1
    wanted = WorkerFilter(status, parse_labels(label), after, count, parse_name(name))
    found = runtime.workers(wanted, principal=principal)
    if limit is None or len(found) <= limit:
        return WorkersResponse(found)
    return WorkersResponse(found[:limit], found[limit - 1].worker_id)


@routes.post(
    paths.WORKERS,
    "create",
    raises=(
        InvalidRequest,
        InvalidProfileSelector,
        ConfigBundleMissing,
        ConfigBundleDigestMismatch,
        IdempotencyConflict,
        WorkerNotFound,
        RuntimeStopped,
        StoreFull,
    ),
)
async def create_worker(
    runtime: Runtime, principal: Principal, request: CreateWorkerRequest, key: IdempotencyKey | None
) -> WorkerResponse:
    """Create a Worker and spawn it. If the spawn fails, the `execution` of the Worker says why."""
    return WorkerResponse(await runtime.create_worker(request, principal=principal, key=key))


@routes.delete(
    paths.WORKER,
    "delete",
    raises=(InvalidWorkerId, WorkerNotFound, WorkerRunning, WorkspaceDirty, RuntimeStopped, StoreFull),
)
async def delete_worker(
    runtime: Runtime, principal: Principal, worker_id: str, force: Literal["true", "false"] = "false"
) -> None:
    """Delete a Worker that is not running, and everything that is stored about it.

    A Worker whose workspaces hold unsaved work is deleted only with `force=true`.
    """
    await runtime.delete_worker(runtime.ref(worker_id), force=force == "true", principal=principal)


@routes.get(paths.WORKER, "read", raises=(InvalidWorkerId, WorkerNotFound))
def get_worker(runtime: Runtime, principal: Principal, worker_id: str) -> WorkerResponse:
    """Get a Worker."""
    return WorkerResponse(runtime.worker(runtime.ref(worker_id), principal=principal))


@routes.post(
    paths.WORKER_INPUT,
    "input",
    raises=(
        InvalidWorkerId,
        InvalidRequest,
        WorkerNotFound,
        WorkerExecutionUnavailable,
        WorkerExecutionRejected,
        IdempotencyConflict,
        RuntimeStopped,
        StoreFull,
    ),
)
async def send_input(
    runtime: Runtime, principal: Principal, worker_id: str, message: WorkerInput, key: IdempotencyKey | None
) -> InteractionResponse:
    """Send an input to a Worker. The response means that the input is stored and on its way to the backend."""
    ref = runtime.ref(worker_id)
    return InteractionResponse(await runtime.send_input(ref, message, principal=principal, key=key))


@routes.post(paths.WORKER_STOP, "stop", raises=(InvalidWorkerId, WorkerNotFound, RuntimeStopped, StoreFull))
async def stop_worker(
    runtime: Runtime, principal: Principal, worker_id: str, request: LifecycleRequest | None = None
) -> LifecycleResponse:
    """Stop a Worker and let it end gracefully. Changes nothing if the Worker is not running."""
    ref = runtime.ref(worker_id)
    return LifecycleResponse(await runtime.stop_worker(ref, _reason(request), principal=principal))


@routes.post(paths.WORKER_CANCEL, "cancel", raises=(InvalidWorkerId, WorkerNotFound, RuntimeStopped, StoreFull))
async def cancel_worker(
    runtime: Runtime, principal: Principal, worker_id: str, request: LifecycleRequest | None = None
) -> LifecycleResponse:
    """End a Worker at once. Changes nothing if the Worker is not running."""
    return LifecycleResponse(
        await runtime.cancel_worker(runtime.ref(worker_id), _reason(request), principal=principal)
    )


@routes.post(
    paths.WORKER_INTERRUPT,
    "interrupt",
    raises=(InvalidWorkerId, WorkerNotFound, WorkerExecutionRejected, RuntimeStopped, StoreFull),
)
async def interrupt_worker(runtime: Runtime, principal: Principal, worker_id: str) -> LifecycleResponse:
    """Interrupt the current run of a Worker; the Worker stays. Changes nothing if there is no run."""
    return LifecycleResponse(await runtime.interrupt_worker(runtime.ref(worker_id), principal=principal))


@routes.post(
    paths.WORKER_RESTORE,
    "restore",
    raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound, WorkerExecutionUnavailable, RuntimeStopped, StoreFull),
)
async def restore_worker(runtime: Runtime, principal: Principal, worker_id: str) -> WorkerResponse:
    """Restore the execution of a Worker after a restart or a loss. Changes nothing if it is connected."""
    return WorkerResponse(await runtime.restore_worker(runtime.ref(worker_id), principal=principal))


def _reason(request: LifecycleRequest | None) -> str | None:
    return request.reason if request is not None else None
