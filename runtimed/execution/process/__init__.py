"""Backend `process`: programs that read and write JSON lines."""

from runtimed.execution.process.driver import ProcessBackend

__all__ = ["ProcessBackend"]
