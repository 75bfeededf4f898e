"""The execution of a Worker, and the last result of its backend."""

from typing import Literal

from runtimed.model.profile import Sandbox
from runtimed.model.value import value

WorkerStatus = Literal["running", "stopped", "cancelled"]
BackendState = Literal["unconnected", "connected"]
RunState = Literal["unconnected", "idle", "busy", "rejected", "errored", "stopped"]
Operation = Literal["spawn", "input", "stop", "cancel"]
Outcome = Literal["accepted", "busy", "rejected", "errored", "unsupported"]
LossReason = Literal[
    "exit", "oom", "processes", "cpu", "disk", "output", "timeout", "silence", "protocol", "unresponsive"
]
"""Why a Worker's program or run was lost: it exited, exceeded a limit of its profile, or misbehaved."""

LIMITS_MET: frozenset[LossReason] = frozenset({"oom", "processes", "cpu", "disk", "output", "timeout", "silence"})
"""The reasons that are limits of a profile. The policy `always` restarts nothing after one of them."""

RestartPolicy = Literal["never", "next_input", "always"]
"""When a lost program is started again: only on request, also with the next input, or also automatically."""


@value
class ExecutionResult:
    """The last answer of a backend, and the run state that followed."""

    operation: Operation
    outcome: Outcome
    run_state: RunState
    message: str | None = None


@value
class Execution:
    """Whether a backend is connected to the Worker, and what it is doing.

    Attributes:
        sandbox: What confines its programs, while a backend that runs some is connected.
    """

    backend: BackendState
    run_state: RunState
    last_result: ExecutionResult | None = None
    sandbox: Sandbox | None = None
