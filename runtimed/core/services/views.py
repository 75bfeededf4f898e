"""Render rows of Workers and entries as objects of the v1 contract. Pure."""

from collections.abc import Iterable

import attrs

from runtimed.core.state.change import Entry, StateAt, Worker
from runtimed.model.event import EventEnvelope, Greeting, Snapshot
from runtimed.model.execution import Execution, RunState
from runtimed.model.identity import RuntimeId, WorkerRef, cursor_of
from runtimed.model.interaction import LifecycleAck
from runtimed.model.profile import Sandbox
from runtimed.model.transcript import TranscriptItem
from runtimed.model.worker import (
    AssistantIntent,
    RoleIntent,
    RuntimeDefaultProfile,
    TaskIntent,
    WorkerDetail,
    WorkerSummary,
)


def detail(
    runtime_id: RuntimeId, worker: Worker, retained_after: int, sandbox: Sandbox | None = None
) -> WorkerDetail:
    """Return a Worker in full. Its events are retained after the sequence `retained_after`."""
    request = worker.request
    return WorkerDetail(
        worker_ref=WorkerRef(runtime_id, worker.worker_id),
        runtime_id=runtime_id,
        worker_id=worker.worker_id,
        status=worker.status,
        execution=_execution(worker, sandbox),
        intent=request.intent,
        profile=request.profile,
        config_bundle=request.config_bundle,
        requested_capabilities=request.requested_capabilities,
        workspace_refs=request.workspace_refs,
        mount_refs=request.mount_refs,
        transcript_len=worker.transcript_len,
        last_event_id=worker.last_sequence,
        last_cursor=cursor_of(worker.last_sequence),
        created_at_ms=worker.created_at_ms,
        name=request.name,
        labels=request.labels,
        oldest_cursor=cursor_of(retained_after) if retained_after else None,
        queued_inputs=len(worker.queued),
        title=worker.title,
        commands=worker.commands,
        tenant=worker.tenant,
    )


def summary(runtime_id: RuntimeId, worker: Worker, sandbox: Sandbox | None = None) -> WorkerSummary:
    """Return a Worker as a row of a list."""
    request = worker.request
    return WorkerSummary(
        worker_ref=WorkerRef(runtime_id, worker.worker_id),
        runtime_id=runtime_id,
        worker_id=worker.worker_id,
        status=worker.status,
        execution=_execution(worker, sandbox),
        intent=request.intent,
        profile=request.profile,
        requested_capability_count=len(request.requested_capabilities),
        has_config_bundle=request.config_bundle is not None,
        transcript_len=worker.transcript_len,
        last_event_id=worker.last_sequence,
        last_cursor=cursor_of(worker.last_sequence),
        created_at_ms=worker.created_at_ms,
        name=request.name,
        labels=request.labels,
        title=worker.title,
        tenant=worker.tenant,
    )


def items(ref: WorkerRef, entries: Iterable[Entry]) -> tuple[TranscriptItem, ...]:
    """Return entries of one Worker as transcript items."""
    return tuple([_item(ref, entry) for entry in entries])


def _item(ref: WorkerRef, entry: Entry) -> TranscriptItem:
    event = entry.event
    return TranscriptItem(entry.sequence, ref, entry.role, entry.content, event, cursor_of(event), entry.timestamp_ms)


def lifecycle_ack(ref: WorkerRef, worker: Worker) -> LifecycleAck:
    """Return the answer to a stop, a cancel and an interrupt: the state of the Worker now."""
    return LifecycleAck(ref, worker.status, worker.last_sequence, cursor_of(worker.last_sequence))


def snapshot(
    runtime_id: RuntimeId, worker: Worker, sequence: int, entries: Iterable[Entry], state_at: StateAt
) -> EventEnvelope:
    """Return the first frame of a feed that continues after `sequence`.

    Its time is that of the event with this sequence, or the Worker's creation if there is none.
    """
    cursor, activity = cursor_of(sequence), state_at.activity
    payload = Snapshot(
        entries=items(WorkerRef(runtime_id, worker.worker_id), entries),
        greeting=greeting(worker),
        status=activity.status,
        in_flight=activity.in_flight(),
        permissions=activity.permissions,
    )
    time = state_at.timestamp_ms or worker.created_at_ms
    return EventEnvelope(cursor, f"snapshot:{cursor}", worker.worker_id, time, payload)


def greeting(worker: Worker) -> Greeting:
    """Return who the Worker is. The Runtime knows neither its model nor its context window: they are empty and 0."""
    profile = worker.request.profile
    return Greeting(
        worker_name=worker.request.name or worker.worker_id,
        cwd="",
        provider="default" if isinstance(profile, RuntimeDefaultProfile) else profile.value,
        model="",
        scope_summary=_scope(worker),
        tools=tuple(capability.name for capability in worker.request.requested_capabilities),
        context_window=0,
        context_tokens=0,
    )


def run_state(worker: Worker) -> RunState:
    """Return the run state that clients see. Between two runs it is busy if an input is queued, which runs next."""
    execution = worker.execution
    return "busy" if worker.queued and execution.run_state == "idle" else execution.run_state


def _execution(worker: Worker, sandbox: Sandbox | None) -> Execution:
    execution = worker.execution
    state, shown = run_state(worker), sandbox if execution.backend == "connected" else None
    if state == execution.run_state and shown is None:
        return execution
    return attrs.evolve(execution, run_state=state, sandbox=shown)


def _scope(worker: Worker) -> str:
    match worker.request.intent:
        case TaskIntent(objective):
            return objective
        case RoleIntent(role, purpose):
            return f"{role}: {purpose}" if purpose else role
        case AssistantIntent(purpose):
            return purpose or ""
