"""The acp backend: Workers that are agents of the Agent Client Protocol."""

import asyncio
import importlib

from runtimed.core.ports import EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.backend import SessionBackend
from runtimed.execution.session.driver import Driver
from runtimed.execution.workspace import Workspaces

NO_LIBRARY = "this daemon was installed without ACP: install runtimed[acp]"
NO_COMMAND = "the profile has no command: set it to the argv of an ACP agent"


class AcpBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. The owner of the Supervisor closes that.

    The library of the protocol is imported with the first Worker: that takes most of a second, and 40 MB.
    """

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(self._driver, profile)
        self._workspaces = workspaces
        self._supervisor = supervisor

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        if not self._profile.command:
            return BackendAnswer("rejected", NO_COMMAND)
        try:
            await asyncio.to_thread(importlib.import_module, "runtimed.execution.acp.driver")
        except ImportError:
            return BackendAnswer("unsupported", NO_LIBRARY)
        return await super().spawn(spawn, sink)

    def _driver(self, spawn: Spawn, sink: EventSink) -> Driver:
        from runtimed.execution.acp.driver import AcpDriver

        return AcpDriver(self._profile, self._supervisor, self._workspaces, spawn, sink)
