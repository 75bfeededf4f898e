"""Workers: create, look at, talk to, end."""

from typing import Annotated

from runtimed.core.engine.worker_registry import WorkerFilter
from runtimed.core.runtime import Runtime
from runtimed.errors import (
    ConfigBundleDigestMismatch,
    ConfigBundleMissing,
    InvalidProfileSelector,
    InvalidQuery,
    InvalidRequest,
    InvalidWorkerId,
    RuntimeStopped,
    StoreFull,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
    WorkerNotFound,
    WorkerRunning,
)
from runtimed.http.binder import Number, Routes
from runtimed.http.labels import parse_labels
from runtimed.model.identity import worker_number
from runtimed.model.interaction import LifecycleRequest, WorkerInput
from runtimed.model.worker import CreateWorkerRequest, WorkerStatus
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import InteractionResponse, LifecycleResponse, WorkerResponse, WorkersResponse

routes = Routes("workers")


@routes.get(paths.WORKERS)
def list_workers(
    runtime: Runtime,
    status: WorkerStatus | None = None,
    label: tuple[str, ...] = (),
    limit: Annotated[int | None, Number(minimum=1)] = None,
    after: str = "",
) -> WorkersResponse:
    """The Workers, by id: those of a status, with all the labels given as KEY=VALUE, behind the id `after`."""
    if after and worker_number(after) is None:
        raise InvalidQuery('after: expected "worker-" and 8 lower-case hex digits')
    wanted = WorkerFilter(status, parse_labels(label), after, None if limit is None else limit + 1)
    found = runtime.workers(wanted)
    if limit is None or len(found) <= limit:
        return WorkersResponse(found)
    return WorkersResponse(found[:limit], found[limit - 1].worker_id)


@routes.post(
    paths.WORKERS,
    raises=(
        InvalidRequest,
        InvalidProfileSelector,
        ConfigBundleMissing,
        ConfigBundleDigestMismatch,
        RuntimeStopped,
        StoreFull,
    ),
)
async def create_worker(runtime: Runtime, request: CreateWorkerRequest) -> WorkerResponse:
    """Create a Worker and spawn it; a spawn that fails is told in its `execution`."""
    return WorkerResponse(await runtime.create_worker(request))


@routes.delete(paths.WORKER, raises=(InvalidWorkerId, WorkerNotFound, WorkerRunning, RuntimeStopped, StoreFull))
async def delete_worker(runtime: Runtime, worker_id: str) -> None:
    """Remove a Worker that is not running, with all that is stored of it."""
    await runtime.delete_worker(runtime.ref(worker_id))


@routes.get(paths.WORKER, raises=(InvalidWorkerId, WorkerNotFound))
def get_worker(runtime: Runtime, worker_id: str) -> WorkerResponse:
    """One Worker."""
    return WorkerResponse(runtime.worker(runtime.ref(worker_id)))


@routes.post(
    paths.WORKER_INPUT,
    raises=(
        InvalidWorkerId,
        InvalidRequest,
        WorkerNotFound,
        WorkerExecutionUnavailable,
        WorkerExecutionRejected,
        RuntimeStopped,
        StoreFull,
    ),
)
async def send_input(runtime: Runtime, worker_id: str, message: WorkerInput) -> InteractionResponse:
    """Say something to a Worker; the answer means that it is stored and on its way."""
    return InteractionResponse(await runtime.send_input(runtime.ref(worker_id), message))


@routes.post(paths.WORKER_STOP, raises=(InvalidWorkerId, WorkerNotFound, RuntimeStopped, StoreFull))
async def stop_worker(runtime: Runtime, worker_id: str, request: LifecycleRequest | None = None) -> LifecycleResponse:
    """End a Worker in good order; changes nothing where it is not running."""
    return LifecycleResponse(await runtime.stop_worker(runtime.ref(worker_id), _reason(request)))


@routes.post(paths.WORKER_CANCEL, raises=(InvalidWorkerId, WorkerNotFound, RuntimeStopped, StoreFull))
async def cancel_worker(
    runtime: Runtime, worker_id: str, request: LifecycleRequest | None = None
) -> LifecycleResponse:
    """End a Worker at once; changes nothing where it is not running."""
    return LifecycleResponse(await runtime.cancel_worker(runtime.ref(worker_id), _reason(request)))


@routes.post(
    paths.WORKER_INTERRUPT,
    raises=(InvalidWorkerId, WorkerNotFound, WorkerExecutionRejected, RuntimeStopped, StoreFull),
)
async def interrupt_worker(runtime: Runtime, worker_id: str) -> LifecycleResponse:
    """End the current run of a Worker, which goes on; changes nothing where none goes on."""
    return LifecycleResponse(await runtime.interrupt_worker(runtime.ref(worker_id)))


@routes.post(
    paths.WORKER_RESTORE,
    raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound, WorkerExecutionUnavailable, RuntimeStopped, StoreFull),
)
async def restore_worker(runtime: Runtime, worker_id: str) -> WorkerResponse:
    """Bring back what runs a Worker, after a restart or a loss; changes nothing where something does."""
    return WorkerResponse(await runtime.restore_worker(runtime.ref(worker_id)))


def _reason(request: LifecycleRequest | None) -> str | None:
    return request.reason if request is not None else None
