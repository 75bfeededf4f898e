"""Decisions: pure functions of what is and what is asked, each leaving its part of a Change in a Draft.

A decision checks first and writes afterwards: one that raises has left the Draft as it was.
"""

from collections.abc import Iterable, Mapping

from runtimed.core.ports import BackendAnswer
from runtimed.core.state import bundle_rules
from runtimed.core.state.activity import INPUT_STARTED, SYSTEM_INPUT, permission_item
from runtimed.core.state.change import DispatchOffer, QueuedInput, StateAt, TrimRange, Worker
from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.labels import check_labels, check_name
from runtimed.errors import (
    InvalidProfileSelector,
    InvalidRequest,
    PermissionNotFound,
    WorkerExecutionRejected,
    WorkerExecutionUnavailable,
    WorkerRunning,
)
from runtimed.model.bundle import ConfigBundle
from runtimed.model.diagnostic import Diagnostic, Severity
from runtimed.model.event import (
    ErrorCode,
    ErrorRaised,
    InvokeStart,
    Payload,
    RunEnd,
    Shutdown,
    SystemItem,
    TextDone,
    TextSegment,
    UserMessage,
)
from runtimed.model.execution import Execution, ExecutionResult, LossReason, Operation, RunState
from runtimed.model.identity import WorkerId, cursor_of
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import Permission, PermissionOutcome, PermissionResolution, Ruling
from runtimed.model.text import is_blank
from runtimed.model.worker import (
    CreateWorkerRequest,
    NamedProfile,
    NamedReference,
    RoleIntent,
    TaskIntent,
    WorkerStatus,
)

UNCONNECTED = Execution("unconnected", "unconnected")
MAX_SESSION_CONFIG = 32
MAX_CONFIG_TEXT = 256
"""Entries of a session_config, and characters of each name and each value."""

END_OF_RUN = (RunEnd, ErrorRaised)
MARKS_OF_RUN = (*END_OF_RUN, InvokeStart)
BUSY = Execution("connected", "busy", ExecutionResult("input", "accepted", "busy"))
WAITING = "a run is going on, and inputs wait their turn: wait for its run_end, or send it with when_busy"
LATE_RUN_END = "a run_end was dropped: its run had been ended without it"
LOCAL_DEFAULTS: tuple[str, Severity, str] = (
    "runtime.local_default_resources",
    "info",
    "a Worker was created without a config bundle: the host's own defaults apply",
)
TOOLS_LESS: tuple[str, Severity, str] = (
    "worker.tools_less",
    "info",
    "a Worker was created without capabilities: it has no tools",
)


def new_worker(worker_id: WorkerId, request: CreateWorkerRequest, unix_ms: int) -> Worker:
    """A Worker that nothing runs yet, created at this time."""
    return Worker(worker_id, request, "running", UNCONNECTED, created_at_ms=unix_ms, last_event_ms=unix_ms)


def diagnostics(worker: Worker) -> Iterable[Diagnostic]:
    """What there is to remark on the way a Worker was created."""
    if worker.request.config_bundle is None:
        yield Diagnostic(*LOCAL_DEFAULTS, worker.worker_id)
    if not worker.request.requested_capabilities:
        yield Diagnostic(*TOOLS_LESS, worker.worker_id)


def check_request(request: CreateWorkerRequest, held: Mapping[str, ConfigBundle]) -> None:
    """Raises what section 5 of the contract says of a request that may not be granted."""
    _check_profile(request, held)
    if isinstance(request.intent, TaskIntent):
        _check_not_blank(request.intent.objective, "intent.objective")
    if isinstance(request.intent, RoleIntent):
        _check_not_blank(request.intent.role, "intent.role")
    for index, capability in enumerate(request.requested_capabilities):
        _check_not_blank(capability.name, f"requested_capabilities[{index}].name")
    _check_references(request.workspace_refs, "workspace_refs")
    _check_references(request.mount_refs, "mount_refs")
    check_name(request.name)
    check_labels(request.labels)
    _check_session_config(request.session_config)


def attach(builder: ChangeBuilder, answer: BackendAnswer) -> None:
    """What the backend said to the spawn of a Worker."""
    accepted = answer.outcome == "accepted"
    state: RunState = "idle" if accepted else "errored" if answer.outcome == "errored" else "rejected"
    result = ExecutionResult("spawn", answer.outcome, state, answer.message)
    builder.execution = Execution("connected" if accepted else "unconnected", state, result)
    offer_next_input(builder)


def check_input(status: WorkerStatus, execution: Execution, message: WorkerInput) -> None:
    """Raises InvalidRequest or WorkerExecutionUnavailable for an input that can't be taken now."""
    check_content(status, message)
    check_connected(status, execution)


def check_content(status: WorkerStatus, message: WorkerInput) -> None:
    """Raises InvalidRequest for an input that can't be taken, whatever runs the Worker."""
    check_running(status)
    if is_blank(message.content):
        raise InvalidRequest("content: expected text that is not blank")


def check_running(status: WorkerStatus) -> None:
    """Raises InvalidRequest for a Worker that is over."""
    if status != "running":
        raise InvalidRequest(f"the Worker is {status}: only a running Worker takes input or is restored")


def check_connected(status: WorkerStatus, execution: Execution) -> None:
    """Raises InvalidRequest or WorkerExecutionUnavailable where nothing runs the Worker."""
    check_running(status)
    if execution.backend != "connected":
        raise WorkerExecutionUnavailable(_why_unavailable(execution))


def accept_input(builder: ChangeBuilder, message: WorkerInput) -> tuple[int, int]:
    """An input that the backend has accepted; returns the sequences of its entry and of its event.

    Raises WorkerExecutionRejected where another has waited longer.
    """
    check_input(builder.status, builder.execution, message)
    if builder.offer or builder.queued:
        raise WorkerExecutionRejected(WAITING)
    builder.execution = BUSY
    return _record_input(builder, message)


def queue_input(builder: ChangeBuilder, message: WorkerInput, most: int, *, always: bool) -> QueuedInput | None:
    """Have an input wait its turn; None where nothing goes on, unless it is `always` to wait.

    Raises WorkerExecutionRejected where `most` wait already.
    """
    check_input(builder.status, builder.execution, message)
    if not (always or builder.execution.run_state == "busy" or builder.offer or builder.queued):
        return None
    if len(builder.queued) >= most:
        raise WorkerExecutionRejected(f"{most} inputs wait already (max_queued_inputs)")
    waiting = QueuedInput(*_record_input(builder, message))
    builder.queued = (waiting, *builder.queued) if message.when_busy == "interrupt" else (*builder.queued, waiting)
    offer_next_input(builder)
    return waiting


def offer_next_input(builder: ChangeBuilder) -> None:
    """Offer the first input that waits to the backend, where nothing else goes on; it waits on until it runs."""
    execution, free = builder.execution, not (builder.offer or builder.dispatch_paused)
    if builder.queued and free and execution.backend == "connected" and execution.run_state != "busy":
        builder.offer = DispatchOffer(builder.queued[0])


def start_queued_input(builder: ChangeBuilder, offer: DispatchOffer) -> None:
    """The input whose turn it is was accepted by the backend. Raises WorkerExecutionUnavailable where it is over."""
    if builder.offer is not offer:
        raise WorkerExecutionUnavailable(_why_unavailable(builder.execution))
    _start_queued(builder, offer.input)
    builder.execution = BUSY


def postpone_offer(builder: ChangeBuilder, offer: DispatchOffer) -> None:
    """The backend is amid a run that it began by itself, or has not ended: the input is to be offered again."""
    if builder.offer is offer:
        builder.offer = None


def reject_queued_input(builder: ChangeBuilder, offer: DispatchOffer, answer: BackendAnswer) -> None:
    """The input whose turn it is was refused by the backend for good: that is its run."""
    if builder.offer is not offer:
        return
    _start_queued(builder, offer.input)
    message = answer.message or f"the backend answered {answer.outcome}"
    code: ErrorCode = "internal" if answer.outcome == "errored" else "invalid_request"
    builder.emit(ErrorRaised(code, f"the input was refused: {message}"))
    builder.emit(RunEnd("rolled_back"))
    builder.execution = _execution(builder, "input", answer, "idle")
    offer_next_input(builder)


def refuse_input(builder: ChangeBuilder, answer: BackendAnswer) -> None:
    """An input that the backend has refused: only the Worker's last result tells of it."""
    builder.execution = _execution(builder, "input", answer, builder.execution.run_state)


def record_output(builder: ChangeBuilder, payloads: Iterable[Payload]) -> None:
    """What the backend says; a Worker that is not running says nothing any more. A run's end closes its output.

    A `run_end` that comes after it was missed and added is dropped.
    """
    if builder.status != "running":
        return
    over = False
    for payload in payloads:
        if isinstance(payload, MARKS_OF_RUN) and _is_late(builder, payload):
            builder.alert("warn", LATE_RUN_END)
            continue
        over = over or isinstance(payload, END_OF_RUN)
        if isinstance(payload, END_OF_RUN) and builder.activity.blocks:
            _close_open_output(builder, "the run ended")
        if isinstance(payload, TextDone):
            builder.emit(payload, "assistant", payload.text)
        else:
            builder.emit(payload)
        if isinstance(payload, END_OF_RUN) and builder.execution.run_state == "busy":
            builder.execution = Execution(builder.execution.backend, "idle", builder.execution.last_result)
    if over:
        offer_next_input(builder)


def _is_late(builder: ChangeBuilder, payload: Payload) -> bool:
    """Follow the beginnings and ends of runs; whether this is a `run_end` that came after it was added.

    A backend that has begun a run with `invoke_start` does so with the next one: no `run_end` before is of that one.
    """
    before, running = builder.missing_end, _is_running(builder)
    if isinstance(payload, ErrorRaised):
        builder.missing_end = "awaited" if running else before
        return False
    builder.says_starts = builder.says_starts or isinstance(payload, InvokeStart)
    is_late = before == "added" and isinstance(payload, RunEnd) and (builder.says_starts or not running)
    builder.missing_end = "added" if is_late else "none"
    return is_late


def add_run_end(builder: ChangeBuilder) -> None:
    """End the run whose backend has said `error` and no `run_end`, where it has not said that by now."""
    if builder.missing_end == "awaited" and builder.status == "running":
        builder.emit(RunEnd("rolled_back"))
        builder.missing_end = "added"


def request_permission(builder: ChangeBuilder, permission: Permission, ruled: str | None, most: int) -> None:
    """Ask for a permission, `ruled` being the option that the profile has selected already.

    It is cancelled outside of a run, and where `most` of them wait already.
    """
    name = permission.request_id
    if builder.status != "running":
        builder.rulings[name] = Ruling("cancelled")
    elif refusal := _why_not_asked(builder, most):
        builder.alert("warn", f"a permission request was cancelled: {refusal}")
        builder.rulings[name] = Ruling("cancelled")
    else:
        builder.emit(SystemItem(permission_item(permission)))
        if ruled is not None:
            builder.resolve(PermissionResolution(name, "selected", "profile", ruled))


def rule_on_permission(builder: ChangeBuilder, request_id: str, option_id: str | None) -> PermissionResolution:
    """What a client answers, None being to cancel.

    Raises PermissionNotFound, and InvalidRequest for an option that was not offered.
    """
    permission = next((one for one in builder.activity.permissions if one.request_id == request_id), None)
    if permission is None:
        raise PermissionNotFound
    offered = [option.option_id for option in permission.options]
    if option_id is not None and option_id not in offered:
        raise InvalidRequest(f"option_id: expected one of {', '.join(offered)}")
    outcome: PermissionOutcome = "cancelled" if option_id is None else "selected"
    resolution = PermissionResolution(request_id, outcome, "client", option_id)
    builder.resolve(resolution)
    return resolution


def resolve_permission(builder: ChangeBuilder, resolution: PermissionResolution) -> bool:
    """Rule on a permission; False where it does not wait any more."""
    pending = any(one.request_id == resolution.request_id for one in builder.activity.permissions)
    if pending:
        builder.resolve(resolution)
    return pending


def end_worker(builder: ChangeBuilder, operation: Operation, answer: BackendAnswer, reason: str | None) -> None:
    """Stop or cancel; a run that this cuts is closed first. Changes nothing where the Worker is not running."""
    if builder.status != "running":
        return
    done: WorkerStatus = "cancelled" if operation == "cancel" else "stopped"
    why = f"{done}: {reason}" if reason else done
    add_run_end(builder)
    if not builder.activity.quiet:
        _close_open_output(builder, why)
        if builder.activity.status == "running":
            builder.alert("warn", f"the run was cut, the Worker was {why}")
            builder.emit(RunEnd("rolled_back"))
    if builder.queued:
        builder.alert("warn", f"the Worker was {why}; inputs that waited and are not run: {len(builder.queued)}")
    builder.queued, builder.offer = (), None
    builder.record("worker_cancelled" if operation == "cancel" else "worker_stopped", builder.emit(Shutdown()))
    result = ExecutionResult(operation, answer.outcome, "stopped", answer.message)
    builder.status = done
    builder.execution = Execution("unconnected", "stopped", result)


def trim(builder: ChangeBuilder, trim_range: TrimRange, state_at: StateAt) -> None:
    """Retain the Worker's oldest events no longer, unless that is done."""
    if trim_range.upto > builder.worker.retained_after:
        builder.trim(trim_range, state_at)


def delete_worker(builder: ChangeBuilder) -> None:
    """Take the Worker out. Raises WorkerRunning."""
    if builder.status == "running":
        raise WorkerRunning
    builder.deleted = True


def disconnected(execution: Execution) -> Execution:
    """The same with nothing that runs it; what the backend last said is kept."""
    return Execution("unconnected", "unconnected", execution.last_result)


def lose_execution(builder: ChangeBuilder, why: str, *, cut: bool) -> None:
    """Nothing runs this Worker any more; `cut`: that ended a run, which is closed with an error."""
    if builder.status != "running":
        return
    add_run_end(builder)
    _close_open_output(builder, why)
    builder.cancel_permissions()
    if cut:
        builder.emit(ErrorRaised("internal", f"the run was cut: {why}"))
        builder.emit(RunEnd("rolled_back"))
    builder.execution = disconnected(builder.execution)


def lose_program(builder: ChangeBuilder, reason: LossReason, message: str) -> None:
    """The Worker's program is gone while the Runtime goes on; a run that this cuts is closed with an error."""
    if builder.status != "running":
        return
    cut = _is_running(builder) or builder.missing_end == "awaited"
    builder.missing_end = "none"
    _close_open_output(builder, message)
    builder.emit(ErrorRaised("internal", message, reason))
    builder.alert("error", message)
    if cut:
        builder.emit(RunEnd("rolled_back"))
    builder.offer = None
    result = ExecutionResult("input" if cut else "spawn", "errored", "errored", message)
    builder.execution = Execution("unconnected", "errored", result)


def _is_running(builder: ChangeBuilder) -> bool:
    return builder.execution.run_state == "busy" or builder.activity.status == "running"


def _record_input(builder: ChangeBuilder, message: WorkerInput) -> tuple[int, int]:
    add_run_end(builder)
    sequence = builder.emit(_input_event(message), message.kind, message.content)
    builder.record("worker_input_accepted", sequence)
    return builder.transcript_len, sequence


def _start_queued(builder: ChangeBuilder, waited: QueuedInput) -> None:
    """Tell that the run of an input which has waited begins."""
    add_run_end(builder)
    builder.offer = None
    builder.queued = tuple(waiting for waiting in builder.queued if waiting != waited)
    cursor = cursor_of(waited.event)
    told_by = {"event_id": cursor, "cursor": cursor}  # in the feed an event's id is its cursor
    builder.emit(SystemItem({"kind": INPUT_STARTED, **told_by, "transcript_sequence": waited.entry}))


def _why_not_asked(builder: ChangeBuilder, most: int) -> str | None:
    if not _is_running(builder):
        return "no run is going on"
    if len(builder.activity.permissions) >= most:
        return f"{most} of them wait already (max_pending_permissions)"
    return None


def do_nothing(_builder: ChangeBuilder) -> None:
    """What is decided by who only wants to know when it is his turn."""


def _input_event(message: WorkerInput) -> Payload:
    if message.kind == "system":
        return SystemItem({"kind": SYSTEM_INPUT, "content": message.content})
    return UserMessage((TextSegment(message.content),))


def _close_open_output(builder: ChangeBuilder, why: str) -> None:
    for payload in builder.activity.closing(why):
        if isinstance(payload, TextDone):
            builder.emit(payload, "assistant", payload.text)
        else:
            builder.emit(payload)


def _execution(builder: ChangeBuilder, operation: Operation, answer: BackendAnswer, run_state: RunState) -> Execution:
    result = ExecutionResult(operation, answer.outcome, run_state, answer.message)
    return Execution(builder.execution.backend, run_state, result)


def _why_unavailable(execution: Execution) -> str:
    result = execution.last_result
    if result is not None and execution.run_state in {"rejected", "errored"}:
        why = f": {result.message}" if result.message else ""
        hope = "tries again" if result.operation == "spawn" else "brings it back"
        return f"nothing runs this Worker{why}; restore {hope}"
    return "nothing runs this Worker since the daemon's last start; restore brings it back"


def _check_profile(request: CreateWorkerRequest, held: Mapping[str, ConfigBundle]) -> None:
    if request.config_bundle is None:
        if isinstance(request.profile, NamedProfile):
            raise InvalidProfileSelector("profile: a named profile needs the config_bundle that offers it")
        bundle_rules.check_selector(request.profile, "profile")
        return
    bundle = bundle_rules.held(held, request.config_bundle)
    if all(profile.selector != request.profile for profile in bundle.profiles):
        raise InvalidProfileSelector("profile: the config bundle does not offer this profile")


def _check_references(references: Iterable[NamedReference], field: str) -> None:
    for index, reference in enumerate(references):
        _check_not_blank(reference.name, f"{field}[{index}].name")
        _check_not_blank(reference.reference, f"{field}[{index}].reference")


def _check_session_config(config: Mapping[str, str]) -> None:
    if len(config) > MAX_SESSION_CONFIG:
        raise InvalidRequest(f"session_config: expected at most {MAX_SESSION_CONFIG} entries")
    for name, value in config.items():
        if not (name.strip() and len(name) <= MAX_CONFIG_TEXT and name.isprintable()):
            raise InvalidRequest(f"session_config: expected names of 1 to {MAX_CONFIG_TEXT} printable characters")
        if not (value.strip() and len(value) <= MAX_CONFIG_TEXT and value.isprintable()):
            raise InvalidRequest(
                f"session_config.{name}: expected 1 to {MAX_CONFIG_TEXT} printable characters, not blank"
            )


def _check_not_blank(text: str, path: str) -> None:
    if not text.strip():
        raise InvalidRequest(f"{path}: expected text that is not blank")
