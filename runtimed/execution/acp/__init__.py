"""Backend `acp`: agents that speak the Agent Client Protocol, unmodified."""

from runtimed.execution.acp.backend import AcpBackend
from runtimed.execution.factories import BackendFactory

__all__ = ["FACTORY", "AcpBackend"]

FACTORY = BackendFactory(
    AcpBackend,
    needs_command=True,
    takes_session_config=True,
    takes_mcp_servers=True,
    library="acp",
    can_warm=True,
    keeps_sessions=True,
    workspaces="used",
)
