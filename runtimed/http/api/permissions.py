"""Routes of permission requests: list and answer them."""

from runtimed.core.runtime import Runtime
from runtimed.errors import (
    InvalidRequest,
    InvalidWorkerId,
    PermissionNotFound,
    RuntimeStopped,
    StoreFull,
    WorkerNotFound,
)
from runtimed.http.web.binding import Routes
from runtimed.model.permission import PermissionAnswer
from runtimed.model.principal import Principal
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import AllPermissionsResponse, PermissionResponse, PermissionsResponse

routes = Routes("permissions")


@routes.get(paths.PERMISSIONS, "read")
def list_all_permissions(runtime: Runtime, principal: Principal) -> AllPermissionsResponse:
    """List the pending permission requests of all Workers that the token sees, by Worker, oldest first."""
    return AllPermissionsResponse(runtime.all_permissions(principal=principal))


@routes.get(paths.WORKER_PERMISSIONS, "read", raises=(InvalidWorkerId, WorkerNotFound))
def list_permissions(runtime: Runtime, principal: Principal, worker_id: str) -> PermissionsResponse:
    """List the pending permission requests of a Worker, oldest first."""
    return PermissionsResponse(runtime.permissions(runtime.ref(worker_id), principal=principal))


@routes.post(
    paths.WORKER_PERMISSION,
    "answer",
    raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound, PermissionNotFound, RuntimeStopped, StoreFull),
)
async def answer_permission(
    runtime: Runtime, principal: Principal, worker_id: str, request_id: str, answer: PermissionAnswer
) -> PermissionResponse:
    """Answer a permission request with one of its options, fill its form, or cancel it. The first answer counts."""
    if (answer.outcome is None) == (answer.option_id is None and answer.content is None):
        raise InvalidRequest('expected either option_id, or the outcome "cancelled", or the content of a form')
    resolution = await runtime.answer_permission(
        runtime.ref(worker_id),
        request_id,
        answer.option_id,
        answer.reason,
        content=answer.content,
        principal=principal,
    )
    return PermissionResponse(resolution)
