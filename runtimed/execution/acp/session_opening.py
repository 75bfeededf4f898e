"""Open new sessions of agents: for Workers, and ahead of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from runtimed.execution.acp.agent import AUTH_REQUIRED, Agent, AgentFailed, AgentRefused, Place
from runtimed.execution.acp.mcp_servers import described
from runtimed.execution.acp.saved_session import SavedSession, digest_of
from runtimed.execution.processes.environment import environment
from runtimed.execution.profile import Profile
from runtimed.model.mcp_server import McpServer

T = TypeVar("T")


async def session_place(
    agent: Agent, profile: Profile, folders: tuple[Path, ...], mcp_servers: Iterable[McpServer]
) -> Place:
    """Return where a session works.

    Args:
        agent: The agent, which was greeted.
        profile: How it is run.
        folders: The working directory of the session, then further ones.
        mcp_servers: The MCP servers that it may use.

    Raises:
        SpawnRejected: The agent can't use one of the MCP servers.
    """
    env, transports = environment(profile.env, profile.env_pass), agent.abilities.transports
    servers = await asyncio.to_thread(described, mcp_servers, transports, env, folders[0])
    return Place(folders, tuple(servers))


async def new_session(agent: Agent, profile: Profile, place: Place) -> SavedSession:
    """Open a new session, and return what is to be saved about it. Authenticates first if the agent requires that."""
    session_id = await authenticated(agent, profile, lambda: agent.new_session(place))
    deleter = digest_of(profile.command) if agent.abilities.delete else ""
    return SavedSession(session_id, deleter=deleter)


async def authenticated(agent: Agent, profile: Profile, work: Callable[[], Awaitable[T]]) -> T:
    """Open a session, and if the agent requires authentication, authenticate and try once more.

    Raises:
        AgentFailed: The profile names no way of those that the agent offers.
    """
    offered = agent.abilities.authentication
    try:
        return await work()
    except AgentRefused as error:
        if error.code != AUTH_REQUIRED or not offered:
            raise
    method = profile.auth_method
    if method not in offered:
        ways = f"set auth_method of its profile to one of {', '.join(offered)}, and in env what that needs"
        raise AgentFailed("protocol", f"the agent requires authentication: {ways}")
    await agent.authenticate(method)
    return await work()
