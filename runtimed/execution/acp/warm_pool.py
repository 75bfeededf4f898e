"""Agents that are started and initialized before their Workers are known."""

import asyncio
import contextlib
import logging
import math
from collections import deque
from pathlib import Path

import attrs

from runtimed.errors import StoreUnsupported
from runtimed.execution.acp.agent import Agent, AgentFailed, AgentRefused
from runtimed.execution.processes.confinement import ConfinementRefused
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspace import HOME, Workspaces, make_spare, remove_spare
from runtimed.model.identity import WorkerId

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
"""How long the pool waits after a failed start: from the first to the last, doubling."""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class WarmAgent:
    """An agent without a session, and the folder that it was started in, which becomes that of its Worker."""

    agent: Agent
    folder: Path


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
        """Return an agent that runs, or None. The caller owns it, and calls `fill` once it has its session."""
        while self._ready:
            warm = self._ready.popleft()
            if warm.agent.is_alive:
                self._unwatch(warm)
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
        except (AgentFailed, AgentRefused, ConfinementRefused, OSError, StoreUnsupported) as error:
            self._retry_s = min(max(FIRST_RETRY_S, self._retry_s * 2), LAST_RETRY_S)
            self._retry_at = asyncio.get_running_loop().time() + self._retry_s
            command = Path(self._profile.command[0]).name
            log.warning("cannot start a warm agent", extra={"program": command, "reason": error})
            return
        self._retry_s = 0.0
        self._ready.append(warm)
        self._watches[warm] = begin(self._watch(warm))

    async def _start(self) -> WarmAgent:
        folder = await asyncio.to_thread(make_spare, self._workspaces, self._profile.max_folder_bytes)
        try:
            request = self._profile.sandbox_request
            await self._supervisor.confiner.enclose(WorkerId(folder.name), request, folder)
            agent = await Agent.start(self._profile, self._supervisor, WorkerId(folder.name), folder / HOME)
            try:
                await agent.greet()
            except BaseException:
                await agent.stop(0)
                raise
        except BaseException:
            await self._remove(folder)
            raise
        return WarmAgent(agent, folder)

    async def _watch(self, warm: WarmAgent) -> None:
        """Replace an agent that ends by itself."""
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
            warm = self._ended[0]
            await self._end(warm)
            self._ended.remove(warm)

    async def _end_all(self) -> None:
        self._ended += self._ready
        self._ready.clear()
        await self._end_ended()

    async def _end(self, warm: WarmAgent) -> None:
        self._unwatch(warm)
        try:
            await warm.agent.stop(0)
        except TimeoutError as error:
            log.error("cannot end a warm agent", extra={"reason": error})
        await self._remove(warm.folder)

    async def _remove(self, folder: Path) -> None:
        await self._supervisor.confiner.release(WorkerId(folder.name))
        await asyncio.to_thread(remove_spare, self._workspaces, folder)
        self._supervisor.confiner.forget(WorkerId(folder.name))
