"""The acp backend: Workers that are agents of the Agent Client Protocol."""

import asyncio
import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from runtimed.core.ports import EventSink, Spawn
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.errors import StoreUnsupported
from runtimed.execution.acp.saved_session import digest_of, forget, load
from runtimed.execution.processes.confinement import ConfinementRefused
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.backend import SessionBackend
from runtimed.execution.session.driver import Driver, DriverError
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspace import Workspaces
from runtimed.model.identity import WorkerId

if TYPE_CHECKING:
    from runtimed.execution.acp.driver import AcpDriver
    from runtimed.execution.acp.warm_pool import WarmPool

NO_LIBRARY = "this daemon was installed without ACP: install runtimed[acp]"
NO_COMMAND = "the profile has no command: set it to the argv of an ACP agent"

log = logging.getLogger(__name__)


class AcpBackend(SessionBackend):
    """An ExecutionBackend for all Workers of one profile. The owner of the Supervisor closes that.

    The library of the protocol is imported with the first agent: that takes most of a second, and 40 MB.
    """

    def __init__(self, profile: Profile, workspaces: Workspaces, supervisor: Supervisor) -> None:
        super().__init__(self._driver, profile)
        self._workspaces = workspaces
        self._supervisor = supervisor
        self._warm_pool: WarmPool | None = None
        self._spawning: dict[WorkerId, AcpDriver] = {}
        self._warming: asyncio.Task[None] | None = None
        self._ending_warm = asyncio.Lock()

    @property
    def ready(self) -> int:
        return 0 if self._warm_pool is None else self._warm_pool.ready

    def keep_warm(self, idle_s: float) -> None:
        if self._profile.command and self._warming is None:
            self._warming = begin(self._warm_up(idle_s))

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        if not self._profile.command:
            return BackendAnswer("rejected", NO_COMMAND)
        if not await _has_library():
            return BackendAnswer("unsupported", NO_LIBRARY)
        try:
            answer = await super().spawn(spawn, sink)
        finally:
            driver = self._spawning.pop(spawn.worker_id, None)
            if self._warm_pool is not None:
                self._warm_pool.fill()
        if driver is None or answer.outcome != "accepted":
            return answer
        return attrs.evolve(answer, attachments=driver.attachments)

    async def delete(self, worker_id: WorkerId) -> None:
        """Have the agent delete the session of a Worker, if it has the session and can delete it.

        That takes a start of the agent. A failure is logged, and the agent keeps its session.
        """
        try:
            place = await asyncio.to_thread(self._deletable, worker_id)
            if place is None or not await _has_library():
                return
            from runtimed.execution.acp.session_deletion import delete_session

            await delete_session(self._profile, self._supervisor, worker_id, *place)
            await asyncio.to_thread(forget, place[0])  # another profile may have the same agent
        except (ConfinementRefused, DriverError, OSError, StoreUnsupported) as error:
            log.warning("cannot delete the session of a Worker", extra={"worker_id": worker_id, "reason": error})

    async def end_warm(self) -> None:
        async with self._ending_warm:
            if self._warming is not None:
                await finish(self._warming)
            if self._warm_pool is not None:
                await self._warm_pool.close()

    async def close(self) -> None:
        await self.end_warm()
        await super().close()

    def _deletable(self, worker_id: WorkerId) -> tuple[Path, str] | None:
        """Return the folder and the session of a Worker, if the agent of this profile can delete it. Blocks."""
        folder = self._workspaces.worker_folder(worker_id).absolute()
        saved = load(folder)
        if saved is None or saved.deleter != digest_of(self._profile.command):
            return None
        return folder, saved.session_id

    async def _warm_up(self, idle_s: float) -> None:
        if not await _has_library():
            log.warning("cannot keep agents warm", extra={"reason": NO_LIBRARY})
            return
        from runtimed.execution.acp.warm_pool import WarmPool

        self._warm_pool = WarmPool(self._profile, self._supervisor, self._workspaces, idle_s)
        self._warm_pool.fill()

    def _driver(self, spawn: Spawn, sink: EventSink) -> Driver:
        from runtimed.execution.acp.driver import AcpDriver

        driver = AcpDriver(self._profile, self._supervisor, self._workspaces, spawn, sink, self._warm_pool)
        self._spawning[spawn.worker_id] = driver
        return driver


async def _has_library() -> bool:
    try:
        await asyncio.to_thread(importlib.import_module, "runtimed.execution.acp.driver")
    except ImportError:
        return False
    return True
