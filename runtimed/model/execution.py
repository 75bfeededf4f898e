"""How a Worker is being run, and what its backend last said."""

from typing import Literal

from runtimed.model.value import value

BackendState = Literal["unconnected", "connected"]
RunState = Literal["unconnected", "idle", "busy", "rejected", "errored", "stopped"]
Operation = Literal["spawn", "input", "stop", "cancel"]
Outcome = Literal["accepted", "busy", "rejected", "errored", "unsupported"]
LossReason = Literal["exit", "oom", "processes", "cpu", "output", "timeout", "protocol", "unresponsive"]
"""Why a Worker's program is gone: it ended, used more than its profile allows, or could not be talked to."""


@value
class ExecutionResult:
    """The last thing a backend answered, and the run state it left the Worker in."""

    operation: Operation
    outcome: Outcome
    run_state: RunState
    message: str | None = None


@value
class Execution:
    """Whether something runs the Worker, and whether that is busy."""

    backend: BackendState
    run_state: RunState
    last_result: ExecutionResult | None = None
