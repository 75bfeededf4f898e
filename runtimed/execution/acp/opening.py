"""How the agent of a Worker is started, and how its session is opened or found again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs

from runtimed.core.ports import Spawn
from runtimed.core.state.change import Entry
from runtimed.execution.acp.agent import AUTH_REQUIRED, Agent, AgentFailed, AgentRefused
from runtimed.execution.acp.client import Client
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.memory import Memory, keep, recall
from runtimed.execution.acp.options import configure
from runtimed.execution.acp.replay import Replay
from runtimed.execution.acp.roots import Roots
from runtimed.execution.acp.terminals import Terminals
from runtimed.execution.profile import Profile
from runtimed.execution.supervise import Supervisor
from runtimed.execution.workspace import Home, Workspaces
from runtimed.model.event import Alert

REPLAY_SETTLE_S = 0.05
"""How long the rest of a replay may take to come once the session was loaded."""

GONE = "the agent does not know any more what was said: "
DIFFERS = "what the agent remembers is not what the transcript has"
T = TypeVar("T")


@attrs.frozen
class Opened:
    """An agent with a session; `remark` is what a person should know of how that was found again."""

    agent: Agent
    memory: Memory
    remark: str | None = None


class Opener:
    """Starts agents in the folder of one Worker; `home` is where they live in it. It keeps none.

    `told` is what a person should know of that folder since the newest start.
    """

    def __init__(self, profile: Profile, supervisor: Supervisor, workspaces: Workspaces, spawn: Spawn) -> None:
        self._profile = profile
        self._supervisor = supervisor
        self._place = Home(workspaces, spawn)
        self._spawn = spawn
        self.told: str | None = None
        self._folders: tuple[Path, ...] = ()

    async def open(self, inbox: Inbox, terminals: Terminals, history: Sequence[Entry] | None) -> Opened:
        """Start the agent; with a `history` its session is to be found again.

        Raises AgentFailed, AgentRefused or OSError, and leaves nothing behind then.
        """
        roots = await asyncio.to_thread(self._prepare)
        granted = self._profile.offered
        client = Client(inbox, roots, terminals, self.home, granted)
        agent = await Agent.start(self._profile, self._supervisor, self.home, client, inbox)
        try:
            await agent.greet(granted)
            opened = await self._session(agent, inbox, history)
            wanted = {**self._profile.session_config, **self._spawn.request.session_config}
            await configure(agent, opened.memory.session_id, wanted)
        except BaseException:
            await agent.stop(0)
            raise
        return opened

    @property
    def home(self) -> Path:
        """The directory that agents start in, from the first start on."""
        return self._place.path

    async def renew_home(self, opened: Opened) -> Alert | None:
        """Make the Worker's folder where it is not there any more, with what is kept in it; what to tell of that."""
        renewed = await self._place.renewed()
        if renewed is not None:
            with contextlib.suppress(OSError):
                await self._keep(opened.memory)
        return renewed

    async def remember(self, opened: Opened, *, introduced: bool) -> Opened:
        """Keep whether the agent knows what it is for, from just before it is told. Raises OSError."""
        memory = await self._keep(attrs.evolve(opened.memory, introduced=introduced))
        return attrs.evolve(opened, memory=memory)

    def _prepare(self) -> Roots:
        self.told = self._place.make()
        mapped = (self._profile.workspaces.get(ref.reference) for ref in self._spawn.request.workspace_refs)
        self._folders = (self.home, *(Path(path) for path in mapped if path is not None))
        return Roots(self._folders)

    async def _session(self, agent: Agent, inbox: Inbox, history: Sequence[Entry] | None) -> Opened:
        if history is None:
            return await self._new(agent)
        kept = await asyncio.to_thread(recall, self._place.folder)
        if kept is not None:
            return await self._reopen(agent, kept, inbox, history)
        return await self._new(agent, f"{GONE}its session is not known" if history else None)

    async def _reopen(self, agent: Agent, kept: Memory, inbox: Inbox, history: Sequence[Entry]) -> Opened:
        able = agent.abilities
        why = "it can neither resume nor load a session"
        for method in ["session/resume"] * able.resume + ["session/load"] * able.load:
            replay = Replay(kept.session_id)
            try:
                with inbox.diverted(replay.take):
                    reopen = partial(agent.reopen, method, kept.session_id, self._folders)
                    await self._authenticated(agent, reopen)
                    await asyncio.sleep(REPLAY_SETTLE_S)
            except AgentRefused as error:
                why = f"it refused {method}: {error}"
                continue
            if method == "session/resume" or replay.agrees(history, kept.known):
                return Opened(agent, kept)
            differing = attrs.evolve(kept, known=replay.known(history))
            return Opened(agent, await self._keep(differing), DIFFERS)
        return await self._new(agent, GONE + why if kept.introduced else None)

    async def _new(self, agent: Agent, remark: str | None = None) -> Opened:
        session_id = await self._authenticated(agent, lambda: agent.new_session(self._folders))
        return Opened(agent, await self._keep(Memory(session_id)), remark)

    async def _keep(self, memory: Memory) -> Memory:
        await self._place.use(partial(keep, self._place.folder, memory))
        return memory

    async def _authenticated(self, agent: Agent, work: Callable[[], Awaitable[T]]) -> T:
        offered = agent.abilities.authentication
        try:
            return await work()
        except AgentRefused as error:
            if error.code != AUTH_REQUIRED or not offered:
                raise
        method = self._profile.auth_method
        if method not in offered:
            ways = f"set auth_method of its profile to one of {', '.join(offered)}, and in env what that needs"
            raise AgentFailed("protocol", f"the agent wants to be authenticated: {ways}")
        await agent.authenticate(method)
        return await work()
