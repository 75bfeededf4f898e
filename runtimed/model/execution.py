"""How a Worker is being run, and what its backend last said."""

from typing import Literal

from runtimed.model.value import value

BackendState = Literal["unconnected", "connected"]
RunState = Literal["unconnected", "idle", "busy", "rejected", "errored", "stopped"]
Operation = Literal["spawn", "input", "stop", "cancel"]
Outcome = Literal["accepted", "busy", "rejected", "errored", "unsupported"]
LossReason = Literal["exit", "oom", "processes", "cpu", "output", "timeout", "silence", "protocol", "unresponsive"]
"""Why a Worker's program or its run is gone: it ended, went beyond its profile, or could not be talked to."""

LIMITS_MET: frozenset[LossReason] = frozenset({"oom", "processes", "cpu", "output", "timeout", "silence"})
"""The reasons that are limits of a profile. The policy `always` starts nothing again after one of them."""

RestartPolicy = Literal["never", "next_input", "always"]
"""When a program that has ended is started again: on request only, with the next input, or by itself as well."""


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
