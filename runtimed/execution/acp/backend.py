"""The acp backend: Workers that are agents of the Agent Client Protocol."""

import asyncio
import importlib

from runtimed.core.ports import EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.profile import Profile
from runtimed.execution.sessions import Session, SessionBackend
from runtimed.execution.supervise import Supervisor
from runtimed.execution.workspace import Workspaces

NO_LIBRARY = "this daemon was installed without ACP: install runtimed[acp]"
NO_COMMAND = "the profile has no command: set it to the argv of an ACP agent"


class AcpBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. Whoever gave it the Supervisor closes that.

    The library for the protocol is loaded with the first Worker: it takes most of a second, and 40 MB.
    """

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(self._session, profile)
        self._workspaces = workspaces
        self._supervisor = supervisor

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        if not self._profile.command:
            return BackendAnswer("rejected", NO_COMMAND)
        try:
            await asyncio.to_thread(importlib.import_module, "runtimed.execution.acp.session")
        except ImportError:
            return BackendAnswer("unsupported", NO_LIBRARY)
        return await super().spawn(spawn, sink)

    def _session(self, spawn: Spawn, sink: EventSink) -> Session:
        from runtimed.execution.acp.session import AcpSession

        return AcpSession(self._profile, self._supervisor, self._workspaces, spawn, sink)
