"""The Workers behind the sessions of an editor."""

from collections.abc import Iterable
from typing import Any

import attrs

from runtimectl.acp.errors import Failed
from runtimectl.library.client import Client
from runtimectl.library.worker import Worker
from runtimed.model.profile import ProfileSummary
from runtimed.model.worker import CapabilityRequest, CreateWorkerRequest, NamedReference

CWD = "cwd"
"""The workspace in which a Worker works."""

ANOTHER_FOLDER = "or name a workspace of the daemon with: runtimectl acp --workspace cwd=REF"


class ClientWorkers:
    """Creates Workers with the options of the command, and finds those that exist.

    Args:
        client: The daemon.
        request: What the options of the command ask for.
    """

    def __init__(self, client: Client, request: CreateWorkerRequest) -> None:
        self._client = client
        self._request = request

    def create(self, cwd: str, directories: tuple[str, ...]) -> Worker:
        """Create a Worker that works in the editor's folder, unless the options name another one.

        Raises:
            Failed: Its backend refused it. It is deleted again.
            ClientError: The daemon refused it.
        """
        request = with_capabilities(self._request, self._client.profiles())
        worker = self._client.create_worker(request, workspaces=self._workspaces(cwd, directories))
        result = worker.detail().execution.last_result
        if result is not None and result.outcome != "accepted":
            worker.stop()
            worker.delete()
            raise Failed(_refusal(result.message or result.outcome))
        return worker

    def find(self, worker_id: str) -> Worker:
        """Return the Worker with this id. Sends no request."""
        return self._client.worker(worker_id)

    def remarks(self, mcp_servers: list[Any]) -> str | None:
        """Return that the editor's MCP servers are not handed on, if it has any."""
        if not mcp_servers:
            return None
        names = ", ".join(str(server.get("name")) for server in mcp_servers if isinstance(server, dict))
        return f"MCP servers of the editor are not handed on to this agent: {names}"

    def _workspaces(self, cwd: str, directories: tuple[str, ...]) -> tuple[NamedReference, ...]:
        named = self._request.workspace_refs
        if any(reference.name == CWD for reference in named):
            return named
        further = (NamedReference(f"directory-{n}", f"dir:{path}") for n, path in enumerate(directories, 1))
        return (NamedReference(CWD, f"dir:{cwd}"), *named, *further)


def with_capabilities(request: CreateWorkerRequest, profiles: Iterable[ProfileSummary]) -> CreateWorkerRequest:
    """Return a request with the capabilities that its profile needs."""
    selector = getattr(request.profile, "value", None)
    selected = (one for one in profiles if (one.selector == selector if selector else one.default))
    needed = next((one.capabilities for one in selected), ())
    requested = {capability.name for capability in request.requested_capabilities}
    missing = tuple(CapabilityRequest(name) for name in needed if name not in requested)
    return attrs.evolve(request, requested_capabilities=(*request.requested_capabilities, *missing))


def _refusal(message: str) -> str:
    return f"{message}; {ANOTHER_FOLDER}" if "workspace" in message else message
