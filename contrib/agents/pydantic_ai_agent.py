"""A pydantic-ai agent that speaks ACP. It reads and writes files, and asks before it runs a command.

    pip install 'pydantic-ai-harness[acp]' 'pydantic-ai-slim[openai]'
    OPENAI_BASE_URL=… OPENAI_API_KEY=… AGENT_MODEL=… python pydantic_ai_agent.py

It saves its sessions in the folder `.sessions` of the directory where it starts, and can resume them.
"""

import os
import re
import warnings
from pathlib import Path

from pydantic import TypeAdapter
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.toolsets import ApprovalRequiredToolset

warnings.filterwarnings("ignore", module=r"pydantic_ai_harness.*")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pydantic_ai_harness.experimental.acp import (
        AcpFileSystemToolset,
        AcpSession,
        AcpSessionConfig,
        AcpTerminalToolset,
        StoredSession,
        run_acp_stdio_sync,
    )

SESSIONS = Path(".sessions")
STORED = TypeAdapter(StoredSession)


class FileStore:
    """Saves each session in a file."""

    async def save(self, session_id: str, session: StoredSession) -> None:
        """Save a session, completely or not at all."""
        new = self._path(session_id).with_suffix(".new")
        new.write_bytes(STORED.dump_json(session))
        new.replace(self._path(session_id))

    async def load(self, session_id: str) -> StoredSession | None:
        """Return the saved session, or None if there is none."""
        path = self._path(session_id)
        return STORED.validate_json(path.read_bytes()) if path.exists() else None

    def _path(self, session_id: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]+", session_id):
            raise ValueError("not a session id")
        return SESSIONS / f"{session_id}.json"


def configure(session: AcpSession) -> AcpSessionConfig[None]:
    """Return the configuration of a session, with the tools that the client offers."""
    offered, toolsets = session.client_capabilities, []
    of = {"client": session.client, "session_id": session.session_id, "cwd": session.cwd}
    if offered and offered.fs and offered.fs.read_text_file and offered.fs.write_text_file:
        toolsets.append(AcpFileSystemToolset(**of))
    if offered and offered.terminal:
        toolsets.append(ApprovalRequiredToolset(AcpTerminalToolset(**of)))
    return AcpSessionConfig(deps=None, toolsets=toolsets)


if __name__ == "__main__":
    SESSIONS.mkdir(exist_ok=True)
    model = OpenAIChatModel(os.environ["AGENT_MODEL"])
    agent = Agent(model, instructions="You are a coding assistant.")
    run_acp_stdio_sync(agent, session_config=configure, session_store=FileStore())
