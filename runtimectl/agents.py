"""The agents that there are recipes for in docs/how-to/agents.md, and which of them are here."""

import shutil
from typing import NamedTuple


class KnownAgent(NamedTuple):
    """A coding agent that speaks the Agent Client Protocol: its program, and the npm package that has it."""

    name: str
    program: str
    package: str

    def path(self) -> str | None:
        """Where its program is on the PATH of this process; None where it isn't."""
        return shutil.which(self.program)


KNOWN = (
    KnownAgent("Claude Code", "claude-agent-acp", "@agentclientprotocol/claude-agent-acp"),
    KnownAgent("Codex", "codex-acp", "@agentclientprotocol/codex-acp"),
    KnownAgent("Gemini CLI", "gemini", "@google/gemini-cli"),
    KnownAgent("opencode", "opencode", "opencode-ai"),
    KnownAgent("Qwen Code", "qwen", "@qwen-code/qwen-code"),
)
