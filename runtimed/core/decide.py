"""Decisions: pure functions of what is and what is asked, each leaving its part of a Change in a Draft.

A decision checks first and writes afterwards: one that raises has left the Draft as it was.
"""

from collections.abc import Iterable, Mapping

from runtimed.core import bundles
from runtimed.core.activity import INPUT_STARTED, SYSTEM_INPUT, permission_item
from runtimed.core.change import Moment, Span, Turn, Waiting, Worker
from runtimed.core.draft import Draft
from runtimed.core.labels import check_labels, check_name
from runtimed.core.ports import Answer
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


def remarks(worker: Worker) -> Iterable[Diagnostic]:
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


def attach(draft: Draft, answer: Answer) -> None:
    """What the backend said to the spawn of a Worker."""
    accepted = answer.outcome == "accepted"
    state: RunState = "idle" if accepted else "errored" if answer.outcome == "errored" else "rejected"
    result = ExecutionResult("spawn", answer.outcome, state, answer.message)
    draft.execution = Execution("connected" if accepted else "unconnected", state, result)
    next_turn(draft)


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


def take_input(draft: Draft, message: WorkerInput) -> tuple[int, int]:
    """An input that the backend has accepted; returns the sequences of its entry and of its event.

    Raises WorkerExecutionRejected where another has waited longer.
    """
    check_input(draft.status, draft.execution, message)
    if draft.turn or draft.waiting:
        raise WorkerExecutionRejected(WAITING)
    draft.execution = BUSY
    return _hear(draft, message)


def queue_input(draft: Draft, message: WorkerInput, most: int, *, always: bool) -> Waiting | None:
    """Have an input wait its turn; None where nothing goes on, unless it is `always` to wait.

    Raises WorkerExecutionRejected where `most` wait already.
    """
    check_input(draft.status, draft.execution, message)
    if not (always or draft.execution.run_state == "busy" or draft.turn or draft.waiting):
        return None
    if len(draft.waiting) >= most:
        raise WorkerExecutionRejected(f"{most} inputs wait already (max_queued_inputs)")
    waiting = Waiting(*_hear(draft, message))
    draft.waiting = (waiting, *draft.waiting) if message.when_busy == "interrupt" else (*draft.waiting, waiting)
    next_turn(draft)
    return waiting


def next_turn(draft: Draft) -> None:
    """Offer the first input that waits to the backend, where nothing else goes on; it waits on until it runs."""
    execution, free = draft.execution, not (draft.turn or draft.still)
    if draft.waiting and free and execution.backend == "connected" and execution.run_state != "busy":
        draft.turn = Turn(draft.waiting[0])


def begin_turn(draft: Draft, turn: Turn) -> None:
    """The input whose turn it is was accepted by the backend. Raises WorkerExecutionUnavailable where it is over."""
    if draft.turn is not turn:
        raise WorkerExecutionUnavailable(_why_unavailable(draft.execution))
    _start(draft, turn.input)
    draft.execution = BUSY


def put_off_turn(draft: Draft, turn: Turn) -> None:
    """The backend is amid a run that it began by itself, or has not ended: the input is to be offered again."""
    if draft.turn is turn:
        draft.turn = None


def refuse_turn(draft: Draft, turn: Turn, answer: Answer) -> None:
    """The input whose turn it is was refused by the backend for good: that is its run."""
    if draft.turn is not turn:
        return
    _start(draft, turn.input)
    message = answer.message or f"the backend answered {answer.outcome}"
    code: ErrorCode = "internal" if answer.outcome == "errored" else "invalid_request"
    draft.emit(ErrorRaised(code, f"the input was refused: {message}"))
    draft.emit(RunEnd("rolled_back"))
    draft.execution = _execution(draft, "input", answer, "idle")
    next_turn(draft)


def refuse_input(draft: Draft, answer: Answer) -> None:
    """An input that the backend has refused: only the Worker's last result tells of it."""
    draft.execution = _execution(draft, "input", answer, draft.execution.run_state)


def take_output(draft: Draft, payloads: Iterable[Payload]) -> None:
    """What the backend says; a Worker that is not running says nothing any more. A run's end closes its output.

    A `run_end` that comes after it was missed and added is dropped.
    """
    if draft.status != "running":
        return
    over = False
    for payload in payloads:
        if isinstance(payload, MARKS_OF_RUN) and _is_late(draft, payload):
            draft.alert("warn", LATE_RUN_END)
            continue
        over = over or isinstance(payload, END_OF_RUN)
        if isinstance(payload, END_OF_RUN) and draft.activity.blocks:
            _close_open_output(draft, "the run ended")
        if isinstance(payload, TextDone):
            draft.emit(payload, "assistant", payload.text)
        else:
            draft.emit(payload)
        if isinstance(payload, END_OF_RUN) and draft.execution.run_state == "busy":
            draft.execution = Execution(draft.execution.backend, "idle", draft.execution.last_result)
    if over:
        next_turn(draft)


def _is_late(draft: Draft, payload: Payload) -> bool:
    """Follow the beginnings and ends of runs; whether this is a `run_end` that came after it was added.

    A backend that has begun a run with `invoke_start` does so with the next one: no `run_end` before is of that one.
    """
    before, running = draft.missing_end, _is_running(draft)
    if isinstance(payload, ErrorRaised):
        draft.missing_end = "awaited" if running else before
        return False
    draft.says_starts = draft.says_starts or isinstance(payload, InvokeStart)
    is_late = before == "added" and isinstance(payload, RunEnd) and (draft.says_starts or not running)
    draft.missing_end = "added" if is_late else "none"
    return is_late


def add_run_end(draft: Draft) -> None:
    """End the run whose backend has said `error` and no `run_end`, where it has not said that by now."""
    if draft.missing_end == "awaited" and draft.status == "running":
        draft.emit(RunEnd("rolled_back"))
        draft.missing_end = "added"


def request_permission(draft: Draft, permission: Permission, ruled: str | None, most: int) -> None:
    """Ask for a permission, `ruled` being the option that the profile has selected already.

    It is cancelled outside of a run, and where `most` of them wait already.
    """
    name = permission.request_id
    if draft.status != "running":
        draft.rulings[name] = Ruling("cancelled")
    elif refusal := _no_question(draft, most):
        draft.alert("warn", f"a permission request was cancelled: {refusal}")
        draft.rulings[name] = Ruling("cancelled")
    else:
        draft.emit(SystemItem(permission_item(permission)))
        if ruled is not None:
            draft.resolve(PermissionResolution(name, "selected", "profile", ruled))


def rule_on_permission(draft: Draft, request_id: str, option_id: str | None) -> PermissionResolution:
    """What a client answers, None being to cancel.

    Raises PermissionNotFound, and InvalidRequest for an option that was not offered.
    """
    permission = next((one for one in draft.activity.permissions if one.request_id == request_id), None)
    if permission is None:
        raise PermissionNotFound
    offered = [option.option_id for option in permission.options]
    if option_id is not None and option_id not in offered:
        raise InvalidRequest(f"option_id: expected one of {', '.join(offered)}")
    outcome: PermissionOutcome = "cancelled" if option_id is None else "selected"
    resolution = PermissionResolution(request_id, outcome, "client", option_id)
    draft.resolve(resolution)
    return resolution


def resolve_permission(draft: Draft, resolution: PermissionResolution) -> bool:
    """Rule on a permission; False where it does not wait any more."""
    pending = any(one.request_id == resolution.request_id for one in draft.activity.permissions)
    if pending:
        draft.resolve(resolution)
    return pending


def end_worker(draft: Draft, operation: Operation, answer: Answer, reason: str | None) -> None:
    """Stop or cancel; a run that this cuts is closed first. Changes nothing where the Worker is not running."""
    if draft.status != "running":
        return
    done: WorkerStatus = "cancelled" if operation == "cancel" else "stopped"
    why = f"{done}: {reason}" if reason else done
    add_run_end(draft)
    if not draft.activity.quiet:
        _close_open_output(draft, why)
        if draft.activity.status == "running":
            draft.alert("warn", f"the run was cut, the Worker was {why}")
            draft.emit(RunEnd("rolled_back"))
    if draft.waiting:
        draft.alert("warn", f"the Worker was {why}; inputs that waited and are not run: {len(draft.waiting)}")
    draft.waiting, draft.turn = (), None
    draft.record("worker_cancelled" if operation == "cancel" else "worker_stopped", draft.emit(Shutdown()))
    result = ExecutionResult(operation, answer.outcome, "stopped", answer.message)
    draft.status = done
    draft.execution = Execution("unconnected", "stopped", result)


def trim(draft: Draft, span: Span, moment: Moment) -> None:
    """Retain the Worker's oldest events no longer, unless that is done."""
    if span.upto > draft.worker.floor:
        draft.trim(span, moment)


def delete_worker(draft: Draft) -> None:
    """Take the Worker out. Raises WorkerRunning."""
    if draft.status == "running":
        raise WorkerRunning
    draft.deleted = True


def disconnected(execution: Execution) -> Execution:
    """The same with nothing that runs it; what the backend last said is kept."""
    return Execution("unconnected", "unconnected", execution.last_result)


def lose_execution(draft: Draft, why: str, *, cut: bool) -> None:
    """Nothing runs this Worker any more; `cut`: that ended a run, which is closed with an error."""
    if draft.status != "running":
        return
    add_run_end(draft)
    _close_open_output(draft, why)
    draft.cancel_permissions()
    if cut:
        draft.emit(ErrorRaised("internal", f"the run was cut: {why}"))
        draft.emit(RunEnd("rolled_back"))
    draft.execution = disconnected(draft.execution)


def lose_program(draft: Draft, reason: LossReason, message: str) -> None:
    """The Worker's program is gone while the Runtime goes on; a run that this cuts is closed with an error."""
    if draft.status != "running":
        return
    cut = _is_running(draft) or draft.missing_end == "awaited"
    draft.missing_end = "none"
    _close_open_output(draft, message)
    draft.emit(ErrorRaised("internal", message, reason))
    draft.alert("error", message)
    if cut:
        draft.emit(RunEnd("rolled_back"))
    draft.turn = None
    result = ExecutionResult("input" if cut else "spawn", "errored", "errored", message)
    draft.execution = Execution("unconnected", "errored", result)


def _is_running(draft: Draft) -> bool:
    return draft.execution.run_state == "busy" or draft.activity.status == "running"


def _hear(draft: Draft, message: WorkerInput) -> tuple[int, int]:
    add_run_end(draft)
    sequence = draft.emit(_said(message), message.kind, message.content)
    draft.record("worker_input_accepted", sequence)
    return draft.transcript_len, sequence


def _start(draft: Draft, waited: Waiting) -> None:
    """Tell that the run of an input which has waited begins."""
    add_run_end(draft)
    draft.turn = None
    draft.waiting = tuple(waiting for waiting in draft.waiting if waiting != waited)
    cursor = cursor_of(waited.event)
    told_by = {"event_id": cursor, "cursor": cursor}  # in the feed an event's id is its cursor
    draft.emit(SystemItem({"kind": INPUT_STARTED, **told_by, "transcript_sequence": waited.entry}))


def _no_question(draft: Draft, most: int) -> str | None:
    if not _is_running(draft):
        return "no run is going on"
    if len(draft.activity.permissions) >= most:
        return f"{most} of them wait already (max_pending_permissions)"
    return None


def nothing(_draft: Draft) -> None:
    """What is decided by who only wants to know when it is his turn."""


def _said(message: WorkerInput) -> Payload:
    if message.kind == "system":
        return SystemItem({"kind": SYSTEM_INPUT, "content": message.content})
    return UserMessage((TextSegment(message.content),))


def _close_open_output(draft: Draft, why: str) -> None:
    for payload in draft.activity.closing(why):
        if isinstance(payload, TextDone):
            draft.emit(payload, "assistant", payload.text)
        else:
            draft.emit(payload)


def _execution(draft: Draft, operation: Operation, answer: Answer, run_state: RunState) -> Execution:
    result = ExecutionResult(operation, answer.outcome, run_state, answer.message)
    return Execution(draft.execution.backend, run_state, result)


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
        bundles.check_selector(request.profile, "profile")
        return
    bundle = bundles.held(held, request.config_bundle)
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
