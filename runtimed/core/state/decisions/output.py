"""Decide about the events that a backend emits."""

from collections.abc import Iterable

from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.decisions.inputs import offer_next_input
from runtimed.core.state.decisions.run_end import END_OF_RUN, close_open_output, is_run_active
from runtimed.core.state.session_info import commands_after, title_after
from runtimed.model.event import ErrorRaised, InvokeStart, Payload, RunEnd, SystemItem, TextDone
from runtimed.model.execution import Execution

MARKS_OF_RUN = (*END_OF_RUN, InvokeStart)
LATE_RUN_END = "a run_end was dropped: the Runtime had ended its run already"


def record_output(builder: ChangeBuilder, payloads: Iterable[Payload]) -> None:
    """Record the events that a backend emits. Events of a Worker that has ended are dropped.

    The end of a run closes the text, thoughts and tool calls that are still open. Items may give the Worker a title
    or commands. A `run_end` that arrives after the Runtime added it (see `add_run_end`) is dropped, with an alert.
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
            close_open_output(builder, "the run ended")
        if isinstance(payload, TextDone):
            builder.emit(payload, "assistant", payload.text)
        else:
            builder.emit(payload)
        if isinstance(payload, SystemItem):
            builder.title = title_after(payload.item, builder.title)
            builder.commands = commands_after(payload.item, builder.commands)
        if isinstance(payload, END_OF_RUN) and builder.execution.run_state == "busy":
            builder.execution = Execution(builder.execution.backend, "idle", builder.execution.last_result)
    if over:
        offer_next_input(builder)


def _is_late(builder: ChangeBuilder, payload: Payload) -> bool:
    """Track starts and ends of runs; return whether this is a `run_end` that the Runtime has added before.

    A backend that announces one run with `invoke_start` announces every run: a `run_end` before the next
    `invoke_start` belongs to the old run.
    """
    before, running = builder.missing_end, is_run_active(builder)
    if isinstance(payload, ErrorRaised):
        builder.missing_end = "awaited" if running else before
        return False
    builder.says_starts = builder.says_starts or isinstance(payload, InvokeStart)
    is_late = before == "added" and isinstance(payload, RunEnd) and (builder.says_starts or not running)
    builder.missing_end = "added" if is_late else "none"
    return is_late
