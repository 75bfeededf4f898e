"""The Runtime: decide, commit, apply, publish. It knows no HTTP, no SQL and no process."""

from runtimed.core.ports import Answer, Dispatch, EventSink, ExecutionBackend, Spawn, Store
from runtimed.core.runtime import Runtime

__all__ = ["Answer", "Dispatch", "EventSink", "ExecutionBackend", "Runtime", "Spawn", "Store"]
