"""The Workers behind the sessions of an editor."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import attrs

from runtimectl.acp.errors import Failed
from runtimectl.acp.mcp_servers import read_mcp_servers
from runtimectl.errors import ApiError
from runtimectl.library.client import Client
from runtimectl.library.worker import Worker
from runtimed.model.mcp_server import McpServer
from runtimed.model.profile import ProfileSummary
from runtimed.model.worker import CapabilityRequest, CreateWorkerRequest, NamedReference, WorkerDetail

CWD = "cwd"
"""The workspace in which a Worker works."""

UNKNOWN_WORKER = "worker_not_found"
FOLDER = "dir:"
"""How a reference to a folder that a client names begins."""

MAX_LISTED_SESSIONS = 32
"""How many Workers a page of `session/list` is made of: each takes a request."""

ANOTHER_FOLDER = "or name a workspace of the daemon with: runtimectl acp --workspace cwd=REF"


class NewWorker(NamedTuple):
    """A Worker that was created, and what the editor's user should know of it, if anything."""

    worker: Worker
    remark: str | None


class ClientWorkers:
    """Creates Workers with the options of the command, and finds those that exist.

    Args:
        client: The daemon.
        request: What the options of the command ask for.
    """

    def __init__(self, client: Client, request: CreateWorkerRequest) -> None:
        self._client = client
        self._request = request

    def create(self, cwd: str, directories: tuple[str, ...], mcp_servers: list[Any]) -> NewWorker:
        """Create a Worker that works in the editor's folder, unless the options name another one.

        Args:
            cwd: The folder.
            directories: Further folders.
            mcp_servers: The MCP servers of the editor, which are handed on if the profile takes them.

        Raises:
            InvalidParams: An MCP server is invalid.
            Failed: Its backend refused it. It is deleted again.
            ClientError: The daemon refused it.
        """
        servers = read_mcp_servers(mcp_servers)
        profile = selected_profile(self._request, self._client.profiles())
        takes_servers = profile is not None and profile.mcp_from_clients
        request = with_capabilities(self._request, profile)
        if takes_servers:
            request = attrs.evolve(request, mcp_servers=servers)
        worker = self._client.create_worker(request, workspaces=self._workspaces(cwd, directories))
        result = worker.detail().execution.last_result
        if result is not None and result.outcome != "accepted":
            worker.stop()
            worker.delete()
            raise Failed(_refusal(result.message or result.outcome))
        return NewWorker(worker, None if takes_servers else _remark(servers))

    def sessions(self, cwd: str | None, cursor: str | None) -> dict[str, Any]:
        """Return a page of the sessions that run in a folder, or in any: the newest first, as `session/list` has it.

        Those of Workers that have no folder of a client's are left out, since the protocol shows a folder.
        """
        running = sorted((worker.worker_id for worker in self._client.workers("running")), reverse=True)
        left = [worker_id for worker_id in running if cursor is None or worker_id < cursor]
        page, further = left[:MAX_LISTED_SESSIONS], left[MAX_LISTED_SESSIONS:]
        shown = map(self._shown, page)
        sessions = [one for one in shown if one is not None and cwd in (None, one["cwd"])]
        return {"sessions": sessions, **({"nextCursor": page[-1]} if further else {})}

    def find(self, worker_id: str) -> Worker:
        """Return the Worker with this id. Sends no request."""
        return self._client.worker(worker_id)

    def _shown(self, worker_id: str) -> dict[str, Any] | None:
        try:
            return shown_session(self._client.worker(worker_id).detail())
        except ApiError as error:
            if error.code != UNKNOWN_WORKER:
                raise
            return None  # It was deleted since the list was made.

    def _workspaces(self, cwd: str, directories: tuple[str, ...]) -> tuple[NamedReference, ...]:
        named = self._request.workspace_refs
        if any(reference.name == CWD for reference in named):
            return named
        further = (NamedReference(f"directory-{n}", f"{FOLDER}{path}") for n, path in enumerate(directories, 1))
        return (NamedReference(CWD, f"{FOLDER}{cwd}"), *named, *further)


def shown_session(detail: WorkerDetail) -> dict[str, Any] | None:
    """Return a Worker as `session/list` shows it, or None if it works in no folder that a client named."""
    folders = {one.name: one.reference for one in detail.workspace_refs if one.reference.startswith(FOLDER)}
    cwd = folders.pop(CWD, None)
    if cwd is None:
        return None
    further = [folder.removeprefix(FOLDER) for folder in folders.values()]
    title = detail.title or detail.name
    return {
        "sessionId": detail.worker_id,
        "cwd": cwd.removeprefix(FOLDER),
        **({"additionalDirectories": further} if further else {}),
        **({"title": title} if title else {}),
    }


def selected_profile(request: CreateWorkerRequest, profiles: Iterable[ProfileSummary]) -> ProfileSummary | None:
    """Return the profile that a request selects, or None if the daemon does not have it."""
    selector = getattr(request.profile, "value", None)
    return next((one for one in profiles if (one.selector == selector if selector else one.default)), None)


def with_capabilities(request: CreateWorkerRequest, profile: ProfileSummary | None) -> CreateWorkerRequest:
    """Return a request with the capabilities that its profile needs."""
    needed = () if profile is None else profile.capabilities
    requested = {capability.name for capability in request.requested_capabilities}
    missing = tuple(CapabilityRequest(name) for name in needed if name not in requested)
    return attrs.evolve(request, requested_capabilities=(*request.requested_capabilities, *missing))


def _remark(servers: Iterable[McpServer]) -> str | None:
    names = ", ".join(server.name for server in servers)
    return f"MCP servers of the editor are not handed on to this agent: {names}" if names else None


def _refusal(message: str) -> str:
    return f"{message}; {ANOTHER_FOLDER}" if "workspace" in message else message
