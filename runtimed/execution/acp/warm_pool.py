"""Agents that are started, with an open session, before their Workers are known."""

import asyncio
import contextlib
import logging
import math
from collections import deque
from pathlib import Path

import attrs

from runtimed.errors import StoreUnsupported
from runtimed.execution.acp.agent import Agent, AgentRefused
from runtimed.execution.acp.saved_session import SavedSession, save
from runtimed.execution.acp.session_opening import new_session, session_place
from runtimed.execution.processes.confinement import ConfinementRefused
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.session.driver import DriverError
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspace import HOME, Workspaces, make_spare, remove_spare
from runtimed.model.identity import WorkerId

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
"""How long the pool waits after a failed start, or an agent that ended: from the first to the last, doubling."""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class WarmAgent:
    """An agent with an open session, and no Worker.

    Attributes:
        agent: The agent.
        folder: The folder that it was started in, which becomes that of its Worker.
        saved: What is saved there about the session.
    """

    agent: Agent
    folder: Path
    saved: SavedSession

    async def end(self) -> None:
        """End the agent, which nobody uses. It deletes its session first if it can. Raises as `Agent.stop`."""
        if self.agent.is_alive and self.agent.abilities.delete:
            await self.agent.discard_session(self.saved.session_id)
        await self.agent.stop(0)


class WarmPool:
    """Keeps `warm` agents of a profile ready. They end after `idle_s` seconds without a new Worker.

    Each has the limits and the environment of the profile, in a process tree of its own. The owner calls `close`.
    """

    def __init__(self, profile: Profile, supervisor: Supervisor, workspaces: Workspaces, idle_s: float) -> None:
        self._profile = profile
        self._supervisor = supervisor
        self._workspaces = workspaces
        self._idle_s = idle_s
        self._ready: deque[WarmAgent] = deque()
        self._watches: dict[WarmAgent, asyncio.Task[None]] = {}
        self._ended: list[WarmAgent] = []
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._used_at = 0.0
        self._retry_s = 0.0
        self._retry_at = 0.0
        self._is_closed = False

    @property
    def ready(self) -> int:
        """How many agents can be taken now."""
        return sum(warm.agent.is_alive for warm in self._ready)

    def fill(self) -> None:
        """Start the agents that are missing, one after another in the background. Their idle time begins anew."""
        self._used_at = asyncio.get_running_loop().time()
        self._changed.set()
        if not self._is_closed and (self._keeper is None or self._keeper.done()):
            self._keeper = begin(self._keep())

    def take(self) -> WarmAgent | None:
        """Return an agent that runs, or None. The caller owns it, and calls `fill` once the Worker is ready."""
        while self._ready:
            warm = self._ready.popleft()
            if warm.agent.is_alive:
                self._unwatch(warm)
                self._retry_s = 0.0
                return warm
            self._ended.append(warm)
        return None

    async def close(self) -> None:
        """End all agents. None is started or handed out any more."""
        self._is_closed = True
        if self._keeper is not None:
            await finish(self._keeper)
        await self._end_all()

    async def _keep(self) -> None:
        """Keep the pool full until it was idle for too long, then end all agents."""
        while not self._is_idle():
            await self._keep_full()
            await self._end_all()

    async def _keep_full(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_idle():
            self._changed.clear()
            await self._end_ended()
            is_short = len(self._ready) < self._profile.warm
            if is_short and loop.time() >= self._retry_at:
                await self._add()
            else:
                await self._wait(min(self._used_at + self._idle_s, self._retry_at if is_short else math.inf))

    def _is_idle(self) -> bool:
        return asyncio.get_running_loop().time() >= self._used_at + self._idle_s

    async def _wait(self, until: float) -> None:
        """Wait for a change, at most until this time of the loop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until if until < math.inf else None):
                await self._changed.wait()

    async def _add(self) -> None:
        try:
            warm = await self._start()
        except (DriverError, AgentRefused, ConfinementRefused, OSError, StoreUnsupported) as error:
            self._back_off("cannot start a warm agent", error)
            return
        self._ready.append(warm)
        self._watches[warm] = begin(self._watch(warm))

    def _back_off(self, message: str, reason: Exception) -> None:
        """Log a failure, and start no agent for a while."""
        self._retry_s = min(max(FIRST_RETRY_S, self._retry_s * 2), LAST_RETRY_S)
        self._retry_at = asyncio.get_running_loop().time() + self._retry_s
        fields = {"program": Path(self._profile.command[0]).name, "reason": reason, "retry_s": self._retry_s}
        log.warning(message, extra=fields)

    async def _start(self) -> WarmAgent:
        folder = await asyncio.to_thread(make_spare, self._workspaces, self._profile.max_folder_bytes)
        try:
            request = self._profile.sandbox_request
            await self._supervisor.confiner.enclose(WorkerId(folder.name), request, folder)
            agent = await Agent.start(self._profile, self._supervisor, WorkerId(folder.name), folder / HOME)
            try:
                saved = await self._open_session(agent, folder)
            except BaseException:
                await agent.stop(0)
                raise
        except BaseException:
            await self._remove(folder)
            raise
        return WarmAgent(agent, folder, saved)

    async def _open_session(self, agent: Agent, folder: Path) -> SavedSession:
        await agent.greet()
        place = await session_place(agent, self._profile, (folder / HOME,), self._profile.mcp_servers)
        saved = await new_session(agent, self._profile, place)
        await asyncio.to_thread(save, folder, saved)
        return saved

    async def _watch(self, warm: WarmAgent) -> None:
        """Notice an agent that ends by itself."""
        await warm.agent.ended_idle()
        with contextlib.suppress(ValueError):
            self._ready.remove(warm)
            self._ended.append(warm)
        self._changed.set()

    def _unwatch(self, warm: WarmAgent) -> None:
        if watch := self._watches.pop(warm, None):
            watch.cancel()

    async def _end_ended(self) -> None:
        while self._ended:
            ending = tuple(self._ended)
            await asyncio.gather(*map(self._end, ending))
            for warm in ending:
                self._ended.remove(warm)

    async def _end_all(self) -> None:
        self._ended += self._ready
        self._ready.clear()
        await self._end_ended()

    async def _end(self, warm: WarmAgent) -> None:
        self._unwatch(warm)
        try:
            if not warm.agent.is_alive:
                self._back_off("a warm agent ended", await warm.agent.exit_error())
            await warm.end()
        except TimeoutError as error:
            log.error("cannot end a warm agent", extra={"reason": error})
        await self._remove(warm.folder)

    async def _remove(self, folder: Path) -> None:
        await self._supervisor.confiner.release(WorkerId(folder.name))
        await asyncio.to_thread(remove_spare, self._workspaces, folder)
