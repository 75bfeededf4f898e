"""Have an agent delete the session of a Worker that is deleted."""

import asyncio
from pathlib import Path

from runtimed.execution.acp.agent import Agent, AgentFailed, AgentRefused
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.workspace import HOME
from runtimed.model.identity import WorkerId


async def delete_session(
    profile: Profile, supervisor: Supervisor, worker_id: WorkerId, folder: Path, session_id: str
) -> None:
    """Start an agent to delete a session, and end it.

    Args:
        profile: How the agent is run.
        supervisor: Starts it.
        worker_id: The Worker.
        folder: Its folder.
        session_id: The session.

    Raises:
        ConfinementRefused: It cannot be confined as its profile says.
        AgentFailed: It gave no valid answer, or refused.
        OSError: It can't be started, or processes of it resist being killed.
    """
    home = folder / HOME
    await asyncio.to_thread(home.mkdir, mode=0o700, exist_ok=True)
    confiner = supervisor.confiner
    await confiner.enclose(worker_id, profile.sandbox_request, folder)
    try:
        await _delete(await Agent.start(profile, supervisor, worker_id, home, frozenset()), profile, session_id)
    finally:
        await confiner.release(worker_id)


async def _delete(agent: Agent, profile: Profile, session_id: str) -> None:
    try:
        await agent.greet()
        await agent.delete_session(session_id)
    except AgentRefused as error:
        raise AgentFailed("protocol", str(error)) from None
    finally:
        await agent.stop(profile.stop_grace_s)
