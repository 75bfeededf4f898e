"""Backend `acp`: agents that speak the Agent Client Protocol, unmodified."""

from runtimed.execution.acp.backend import AcpBackend

__all__ = ["AcpBackend"]
