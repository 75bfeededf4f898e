"""Decide about inputs: take them, queue them, start queued ones."""

from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change import DispatchOffer, QueuedInput
from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.decisions.run_end import add_run_end
from runtimed.core.state.runtime_items import InputStarted, SystemInput, render
from runtimed.errors import InvalidRequest, WorkerExecutionRejected, WorkerExecutionUnavailable
from runtimed.model.event import ErrorCode, ErrorRaised, Payload, RunEnd, TextSegment, UserMessage
from runtimed.model.execution import Execution, ExecutionResult, Operation, RunState, WorkerStatus
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.identity import cursor_of
from runtimed.model.interaction import WorkerInput
from runtimed.model.text import is_blank

BUSY = Execution("connected", "busy", ExecutionResult("input", "accepted", "busy"))
WAITING = "a run is active, or inputs are queued: wait for the run_end, or set when_busy"


def check_content(status: WorkerStatus, message: WorkerInput) -> None:
    """Raise InvalidRequest if no backend could take this input: the Worker has ended, or the text is blank."""
    check_running(status)
    if is_blank(message.content):
        raise InvalidRequest("content: expected text that is not blank")


def check_running(status: WorkerStatus) -> None:
    """Raise InvalidRequest if the Worker has ended."""
    if status != "running":
        raise InvalidRequest(f"the Worker is {status}: only a running Worker takes input or is restored")


def check_connected(status: WorkerStatus, execution: Execution) -> None:
    """Raise InvalidRequest if the Worker has ended, WorkerExecutionUnavailable if nothing runs it."""
    check_running(status)
    if execution.backend != "connected":
        raise WorkerExecutionUnavailable(why_unavailable(execution))


def accept_input(
    builder: ChangeBuilder, message: WorkerInput, key: IdempotencyKey | None = None, by: str | None = None
) -> tuple[int, int]:
    """Record an input that the backend has accepted, and mark the Worker as busy.

    Args:
        builder: The Change so far.
        message: The input, as `check_content` takes it.
        key: The idempotency key of the request, if it has one.
        by: The client that sends it, as events name it.

    Returns:
        The sequence of the transcript entry and the sequence of its event.

    Raises:
        WorkerExecutionRejected: Other inputs are queued before this one.
        InvalidRequest: The Worker has ended.
        WorkerExecutionUnavailable: Nothing runs the Worker.
    """
    check_connected(builder.status, builder.execution)
    if builder.offer or builder.queued:
        raise WorkerExecutionRejected(WAITING)
    builder.execution = BUSY
    entry, event = record_input(builder, message, by)
    if key is not None:
        builder.keep_key(key, entry, event, queued=False)
    return entry, event


def queue_input(
    builder: ChangeBuilder,
    message: WorkerInput,
    most: int,
    *,
    always: bool,
    key: IdempotencyKey | None = None,
    by: str | None = None,
) -> QueuedInput | None:
    """Record an input that waits for the current run to end, and offer it to the backend if there is none.

    Args:
        builder: The Change so far.
        message: The input, as `check_content` takes it. With `when_busy` of `interrupt` it goes to the front of the
            queue.
        most: How many inputs may be queued (max_queued_inputs).
        always: Queue the input even if the Worker is idle.
        key: The idempotency key of the request, if it has one.
        by: The client that sends it, as events name it.

    Returns:
        The queued input, or None if the Worker is idle and `always` is false: nothing was recorded.

    Raises:
        WorkerExecutionRejected: `most` inputs are queued already.
    """
    check_connected(builder.status, builder.execution)
    if not (always or builder.execution.run_state == "busy" or builder.offer or builder.queued):
        return None
    if len(builder.queued) >= most:
        raise WorkerExecutionRejected(f"{most} inputs wait already (max_queued_inputs)")
    waiting = QueuedInput(*record_input(builder, message, by), len(message.attachments))
    if key is not None:
        builder.keep_key(key, waiting.entry, waiting.event, queued=True)
    builder.queued = (waiting, *builder.queued) if message.when_busy == "interrupt" else (*builder.queued, waiting)
    offer_next_input(builder)
    return waiting


def offer_next_input(builder: ChangeBuilder) -> None:
    """Offer the first queued input to the backend if the Worker is idle. It stays queued until it runs."""
    execution, free = builder.execution, not (builder.offer or builder.dispatch_paused)
    if builder.queued and free and execution.backend == "connected" and execution.run_state != "busy":
        builder.offer = DispatchOffer(builder.queued[0])


def start_queued_input(builder: ChangeBuilder, offer: DispatchOffer) -> None:
    """Record that the run of a queued input begins: the backend has accepted it.

    Raises:
        WorkerExecutionUnavailable: The offer was withdrawn meanwhile.
    """
    if builder.offer is not offer:
        raise WorkerExecutionUnavailable(why_unavailable(builder.execution))
    _start_queued(builder, offer.input)
    builder.execution = BUSY


def postpone_offer(builder: ChangeBuilder, offer: DispatchOffer) -> None:
    """Withdraw an offer that the backend answered with `busy`. The input stays queued and is offered again."""
    if builder.offer is offer:
        builder.offer = None


def reject_queued_input(builder: ChangeBuilder, offer: DispatchOffer, answer: BackendAnswer) -> None:
    """Record that the backend refused a queued input for good: its run begins and ends with an error."""
    if builder.offer is not offer:
        return
    _start_queued(builder, offer.input)
    message = answer.message or f"the backend answered {answer.outcome}"
    code: ErrorCode = "internal" if answer.outcome == "errored" else "invalid_request"
    builder.emit(ErrorRaised(code, f"the input was refused: {message}"))
    builder.emit(RunEnd("rolled_back"))
    builder.execution = execution_after(builder, "input", answer, "idle")
    offer_next_input(builder)


def refuse_input(builder: ChangeBuilder, answer: BackendAnswer) -> None:
    """Record that the backend refused an input. Only `last_result` of the Worker shows it."""
    builder.execution = execution_after(builder, "input", answer, builder.execution.run_state)


def record_input(builder: ChangeBuilder, message: WorkerInput, by: str | None) -> tuple[int, int]:
    """Record an input. Returns the sequences of its transcript entry and of its event."""
    add_run_end(builder)
    sequence = builder.emit(_input_event(message), message.kind, message.content)
    if message.attachments:
        builder.attach(sequence, message.attachments)
    builder.record("worker_input_accepted", sequence, by)
    return builder.transcript_len, sequence


def _start_queued(builder: ChangeBuilder, started: QueuedInput) -> None:
    """Record that the run of a queued input begins."""
    add_run_end(builder)
    builder.offer = None
    builder.queued = tuple(queued for queued in builder.queued if queued != started)
    cursor = cursor_of(started.event)
    builder.emit(render(InputStarted(cursor, started.entry)))


def _input_event(message: WorkerInput) -> Payload:
    if message.kind == "system":
        return render(SystemInput(message.content))
    return UserMessage((TextSegment(message.content),))


def execution_after(
    builder: ChangeBuilder, operation: Operation, answer: BackendAnswer, run_state: RunState
) -> Execution:
    """Return the execution with the answer of the backend as its last result."""
    result = ExecutionResult(operation, answer.outcome, run_state, answer.message)
    return Execution(builder.execution.backend, run_state, result)


def why_unavailable(execution: Execution) -> str:
    """Return why nothing runs the Worker, and what to do about it."""
    result = execution.last_result
    if result is not None and execution.run_state in {"rejected", "errored"}:
        why = f": {result.message}" if result.message else ""
        hope = "tries again" if result.operation == "spawn" else "brings it back"
        return f"nothing runs this Worker{why}; restore {hope}"
    return "nothing runs this Worker since the daemon's last start; restore brings it back"
