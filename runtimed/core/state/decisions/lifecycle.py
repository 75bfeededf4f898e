"""Decide about the life of a Worker: attach, lose, end, trim, delete."""

from functools import lru_cache

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import StateAt, TrimRange
from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.decisions.inputs import offer_next_input
from runtimed.core.state.decisions.run_end import add_run_end, close_open_output, is_run_active
from runtimed.errors import WorkerRunning
from runtimed.model.event import ErrorRaised, RunEnd, Shutdown
from runtimed.model.execution import Execution, ExecutionResult, LossReason, Operation, RunState, WorkerStatus


def attach(builder: ChangeBuilder, answer: BackendAnswer) -> None:
    """Record the answer of the backend to the spawn of a Worker, and offer it the first queued input."""
    builder.execution = _execution_of_spawn(answer)
    offer_next_input(builder)


@lru_cache(maxsize=64)
def _execution_of_spawn(answer: BackendAnswer) -> Execution:
    """Return what a spawn's answer makes of a Worker's execution: one object for all that got the same answer."""
    accepted = answer.outcome == "accepted"
    state: RunState = "idle" if accepted else "errored" if answer.outcome == "errored" else "rejected"
    result = ExecutionResult("spawn", answer.outcome, state, answer.message)
    return Execution("connected" if accepted else "unconnected", state, result)


def lose_execution(builder: ChangeBuilder, why: str, *, cut: bool) -> None:
    """Record that nothing runs the Worker any more. If that cut a run (`cut`), the run ends with an error."""
    if builder.status != "running":
        return
    add_run_end(builder)
    close_open_output(builder, why)
    builder.cancel_permissions()
    if cut:
        builder.emit(ErrorRaised("internal", f"the run was cut: {why}"))
        builder.emit(RunEnd("rolled_back"))
    builder.execution = disconnected(builder.execution)
    builder.commands = ()


def lose_program(builder: ChangeBuilder, reason: LossReason, message: str) -> None:
    """Record that the Worker's program is gone. If that cut a run, the run ends with an error."""
    if builder.status != "running":
        return
    cut = is_run_active(builder) or builder.missing_end == "awaited"
    builder.missing_end = "none"
    close_open_output(builder, message)
    builder.emit(ErrorRaised("internal", message, reason))
    builder.alert("error", message)
    if cut:
        builder.emit(RunEnd("rolled_back"))
    builder.offer = None
    result = ExecutionResult("input" if cut else "spawn", "errored", "errored", message)
    builder.execution = Execution("unconnected", "errored", result)
    builder.commands = ()


def disconnected(execution: Execution) -> Execution:
    """Return the same execution with nothing connected. The last result is kept."""
    return Execution("unconnected", "unconnected", execution.last_result)


def end_worker(
    builder: ChangeBuilder, operation: Operation, answer: BackendAnswer, reason: str | None, by: str | None = None
) -> None:
    """Stop or cancel the Worker. A run that this interrupts is closed first. Does nothing if the Worker has ended.

    Args:
        builder: The Change so far.
        operation: `stop` or `cancel`.
        answer: The answer of the backend to it.
        reason: The reason that the client gave, or None.
        by: The client, as events name it.
    """
    if builder.status != "running":
        return
    done: WorkerStatus = "cancelled" if operation == "cancel" else "stopped"
    why = f"{done}: {reason}" if reason else done
    add_run_end(builder)
    if not builder.activity.quiet:
        close_open_output(builder, why)
        if builder.activity.status == "running":
            builder.alert("warn", f"the run was cut, the Worker was {why}")
            builder.emit(RunEnd("rolled_back"))
    if builder.queued:
        builder.alert("warn", f"the Worker was {why}; queued inputs dropped: {len(builder.queued)}")
    builder.queued, builder.offer = (), None
    builder.record("worker_cancelled" if operation == "cancel" else "worker_stopped", builder.emit(Shutdown()), by)
    result = ExecutionResult(operation, answer.outcome, "stopped", answer.message)
    builder.status = done
    builder.execution = Execution("unconnected", "stopped", result)
    builder.commands = ()


def trim(builder: ChangeBuilder, trim_range: TrimRange, state_at: StateAt) -> None:
    """Stop retaining the oldest events of the Worker, up to the end of `trim_range`, unless that was done before."""
    if trim_range.upto > builder.worker.retained_after:
        builder.trim(trim_range, state_at)


def delete_worker(builder: ChangeBuilder) -> None:
    """Delete the Worker. Raises WorkerRunning."""
    if builder.status == "running":
        raise WorkerRunning
    builder.deleted = True


def do_nothing(_builder: ChangeBuilder) -> None:
    """Change nothing. Callers submit it to learn when everything submitted before is committed."""
