"""The Runtime: decide, commit, apply, publish. It knows no HTTP, no SQL and no process."""

from runtimed.core.ports import Dispatch, EventSink, ExecutionBackend, Spawn, Store
from runtimed.core.runtime import Runtime
from runtimed.core.state.backend_answer import BackendAnswer

__all__ = ["BackendAnswer", "Dispatch", "EventSink", "ExecutionBackend", "Runtime", "Spawn", "Store"]
