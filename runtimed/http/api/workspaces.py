"""Routes of workspaces: list them, and read what was changed in them."""

from runtimed.core.runtime import Runtime
from runtimed.errors import InvalidWorkerId, WorkerNotFound, WorkspaceNotFound, WorkspaceUnavailable
from runtimed.http.web.binding import Routes
from runtimed.http.web.responses import PatchResponse
from runtimed.model.principal import Principal
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import WorkspacesResponse

routes = Routes("workspaces")


@routes.get(paths.WORKER_WORKSPACES, "read", raises=(InvalidWorkerId, WorkerNotFound, WorkspaceUnavailable))
async def list_workspaces(runtime: Runtime, principal: Principal, worker_id: str) -> WorkspacesResponse:
    """List the workspaces of a Worker, in the order of its request."""
    return WorkspacesResponse(tuple(await runtime.workspaces(runtime.ref(worker_id), principal=principal)))


@routes.get(
    paths.WORKSPACE_DIFF,
    "read",
    raises=(InvalidWorkerId, WorkerNotFound, WorkspaceNotFound, WorkspaceUnavailable),
)
async def get_workspace_diff(runtime: Runtime, principal: Principal, worker_id: str, name: str) -> PatchResponse:
    """Get what was changed in a workspace since its base, as a patch for `git apply`.

    Files that are not tracked and binary files are included, ignored ones are not. Above 8 MiB whole files are left
    out, and `X-Diff-Truncated` counts them.
    """
    diff = await runtime.workspace_diff(runtime.ref(worker_id), name, principal=principal)
    return PatchResponse(diff.patch, diff.left_out)
