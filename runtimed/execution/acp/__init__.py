"""Backend `acp`: agents that speak the Agent Client Protocol, unmodified."""
