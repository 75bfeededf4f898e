"""`builtin:shell`: one long-lived shell for each Worker."""

from runtimed.execution.factories import BackendFactory
from runtimed.execution.shell.driver import ShellBackend

__all__ = ["FACTORY", "ShellBackend"]

FACTORY = BackendFactory(ShellBackend, programs=("bash", "sh"), workspaces="used")
