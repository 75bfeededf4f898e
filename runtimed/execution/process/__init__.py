"""Backend `process`: programs that read and write JSON lines."""

from runtimed.execution.factories import BackendFactory
from runtimed.execution.process.driver import ProcessBackend

__all__ = ["FACTORY", "ProcessBackend"]

FACTORY = BackendFactory(ProcessBackend, needs_command=True, workspaces="used")
