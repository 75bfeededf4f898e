"""Start the agent of a Worker, and open its session or find it again."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs

from runtimed.core.ports import Spawn
from runtimed.core.state.change import Entry
from runtimed.execution.acp.agent import Agent, AgentFailed, AgentRefused, Place
from runtimed.execution.acp.client import Served
from runtimed.execution.acp.files import Roots
from runtimed.execution.acp.inbox import Inbox
from runtimed.execution.acp.mcp_servers import merged
from runtimed.execution.acp.replay import Replay
from runtimed.execution.acp.saved_session import SavedSession, load, save
from runtimed.execution.acp.session_config import configure
from runtimed.execution.acp.session_opening import authenticated, new_session, session_place
from runtimed.execution.acp.terminals import Terminals
from runtimed.execution.acp.warm_pool import WarmAgent, WarmPool
from runtimed.execution.processes.confinement import FileRules
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.workspace import Home, Workspaces, remove_spare
from runtimed.model.event import Alert
from runtimed.model.identity import WorkerId

REPLAY_SETTLE_S = 0.05
"""How long the rest of a replay may take to arrive once the session was loaded."""

GONE = "the agent has lost the conversation: "
DIFFERS = "the memory of the agent differs from the transcript"
log = logging.getLogger(__name__)


@attrs.frozen
class Opened:
    """An agent with an open session.

    Attributes:
        agent: The agent.
        saved: What the Worker's folder keeps about the session.
        remark: What people should know about how the session was found again.
    """

    agent: Agent
    saved: SavedSession
    remark: str | None = None


class Handshake:
    """Starts agents in the folder of one Worker; it owns none of them.

    Attributes:
        note: What people should know about that folder since the last start.
    """

    def __init__(
        self,
        profile: Profile,
        supervisor: Supervisor,
        workspaces: Workspaces,
        spawn: Spawn,
        warm_pool: WarmPool | None = None,
    ) -> None:
        self._profile = profile
        self._warm_pool = warm_pool
        self._supervisor = supervisor
        self._workspaces = workspaces
        self._place = Home(workspaces, spawn, profile.max_folder_bytes)
        self._spawn = spawn
        self._mcp_servers = merged(profile.mcp_servers, spawn.request.mcp_servers)
        self.note: str | None = None
        self._folders: tuple[Path, ...] = ()

    async def open(self, inbox: Inbox, terminals: Terminals, history: Sequence[Entry] | None) -> Opened:
        """Start the agent and open its session. A new Worker may get an agent that has one already.

        Args:
            inbox: Takes the messages of the agent.
            terminals: Runs commands for the agent.
            history: The newest entries of the transcript, to find the session again; None opens a new one.

        Raises:
            AgentFailed: The agent ended or gave no valid answer. Nothing of it is left.
            AgentRefused: The agent answered with an error. Nothing of it is left.
            OSError: It can't be started.
        """
        if history is None and (warm := self._take_warm()) is not None:
            try:
                return await self._open_warm(warm, inbox, terminals)
            except (AgentFailed, AgentRefused, OSError) as error:
                fields = {"worker_id": self._spawn.worker_id, "reason": error}
                log.warning("a warm agent is of no use, starting another one", extra=fields)
                inbox.take()
        roots = await asyncio.to_thread(self._prepare)
        agent = await Agent.start(self._profile, self._supervisor, self._spawn.worker_id, self.home)
        agent.limit_folder(self._place.folder_limit)
        try:
            agent.serve(Served(inbox, roots, terminals, self.home))
            await agent.greet()
            return await self._open_session(agent, inbox, history)
        except BaseException:
            await agent.stop(0)
            raise

    @property
    def home(self) -> Path:
        """The directory that agents start in; known from the first start on."""
        return self._place.path

    async def renew_home(self, opened: Opened) -> Alert | None:
        """Make the Worker's folder again if it is gone, with the saved session, and return an alert about that."""
        renewed = await self._place.renewed(self._supervisor.confiner.of(self._spawn.worker_id))
        if renewed is not None:
            with contextlib.suppress(OSError):
                await self._save(opened.saved)
        return renewed

    async def remember(self, opened: Opened, *, introduced: bool) -> Opened:
        """Save whether the agent knows the Worker's intent, before the prompt that contains it. Raises OSError."""
        saved = await self._save(attrs.evolve(opened.saved, introduced=introduced))
        return attrs.evolve(opened, saved=saved)

    def _take_warm(self) -> WarmAgent | None:
        """Take an agent that was started ahead. A Worker whose request may shape its start gets none."""
        request = self._spawn.request
        if self._warm_pool is None or request.workspace_refs or request.mount_refs or request.config_bundle:
            return None
        return self._warm_pool.take()

    async def _open_warm(self, warm: WarmAgent, inbox: Inbox, terminals: Terminals) -> Opened:
        spare, confiner = WorkerId(warm.folder.name), self._supervisor.confiner
        try:
            await asyncio.to_thread(self._adopt, warm.folder)
            await confiner.hand_over(spare, self._spawn.worker_id)
            roots = await asyncio.to_thread(self._prepare)
            warm.agent.limit_folder(self._place.folder_limit)
            warm.agent.renew_deadline(self._profile.start_timeout_s / 2)
            return await self._take_over(warm, Served(inbox, roots, terminals, self.home))
        except BaseException:
            try:
                await warm.end()
            finally:
                await confiner.release(spare)
            raise

    async def _take_over(self, warm: WarmAgent, served: Served) -> Opened:
        """Use the session of an agent that was started ahead, or another one if the Worker has own MCP servers."""
        agent = warm.agent
        if not agent.is_alive:
            raise await agent.exit_error()
        if self._mcp_servers == self._profile.mcp_servers:
            agent.serve(served)
            return await self._configured(Opened(agent, warm.saved))
        unused = warm.saved.session_id
        agent.serve(served, unused)
        opened = await self._new(agent)
        if opened.saved.session_id == unused:
            agent.serve(served)
        else:
            await agent.discard_session(unused)
        return await self._configured(opened)

    async def _open_session(self, agent: Agent, inbox: Inbox, history: Sequence[Entry] | None) -> Opened:
        return await self._configured(await self._session(agent, inbox, history))

    async def _configured(self, opened: Opened) -> Opened:
        wanted = {**self._profile.session_config, **self._spawn.request.session_config}
        await configure(opened.agent, opened.saved.session_id, wanted)
        return opened

    def _adopt(self, spare: Path) -> None:
        try:
            self._place.adopt(spare)
        except BaseException:
            remove_spare(self._workspaces, spare)
            raise

    def _prepare(self) -> Roots:
        self.note = self._place.make()
        self._folders = self._place.folders
        return Roots(self._folders, self._rules)

    @property
    def _rules(self) -> FileRules | None:
        """What the Worker may do with files; None if nothing confines it."""
        enclosure = self._supervisor.confiner.of(self._spawn.worker_id)
        return enclosure if enclosure is not None and enclosure.confines else None

    async def _session(self, agent: Agent, inbox: Inbox, history: Sequence[Entry] | None) -> Opened:
        if history is None:
            return await self._new(agent)
        kept = await asyncio.to_thread(load, self._place.folder)
        if kept is not None:
            return await self._reopen(agent, kept, inbox, history)
        return await self._new(agent, f"{GONE}its session is not known" if history else None)

    async def _reopen(self, agent: Agent, kept: SavedSession, inbox: Inbox, history: Sequence[Entry]) -> Opened:
        able = agent.abilities
        why = "it can neither resume nor load a session"
        for method in ["session/resume"] * able.resume + ["session/load"] * able.load:
            replay = Replay(kept.session_id)
            try:
                with inbox.diverted(replay.take):
                    reopen = partial(agent.reopen, method, kept.session_id, await self._session_place(agent))
                    await authenticated(agent, self._profile, reopen)
                    await asyncio.sleep(REPLAY_SETTLE_S)
            except AgentRefused as error:
                why = f"it refused {method}: {error}"
                continue
            if method == "session/resume" or replay.agrees(history, kept.known):
                return Opened(agent, kept)
            differing = attrs.evolve(kept, known=replay.known(history))
            return Opened(agent, await self._save(differing), DIFFERS)
        return await self._new(agent, GONE + why if kept.introduced else None)

    async def _new(self, agent: Agent, remark: str | None = None) -> Opened:
        saved = await new_session(agent, self._profile, await self._session_place(agent))
        return Opened(agent, await self._save(saved), remark)

    async def _session_place(self, agent: Agent) -> Place:
        return await session_place(agent, self._profile, self._folders, self._mcp_servers)

    async def _save(self, saved: SavedSession) -> SavedSession:
        await self._place.use(partial(save, self._place.folder, saved))
        return saved
