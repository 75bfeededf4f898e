"""How a run ends: what is open is closed, and a missing `run_end` is added."""

from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.model.event import ErrorRaised, RunEnd, TextDone

END_OF_RUN = (RunEnd, ErrorRaised)


def is_run_active(builder: ChangeBuilder) -> bool:
    """Return whether a run is active, by the backend's answer or by the events."""
    return builder.execution.run_state == "busy" or builder.activity.status == "running"


def add_run_end(builder: ChangeBuilder) -> None:
    """End the run if the backend emitted `error` and no `run_end` since."""
    if builder.missing_end == "awaited" and builder.status == "running":
        builder.emit(RunEnd("rolled_back"))
        builder.missing_end = "added"


def close_open_output(builder: ChangeBuilder, why: str) -> None:
    """End the texts, thoughts and tool calls in flight. `why` becomes the result of tool calls that have none."""
    for payload in builder.activity.closing(why):
        if isinstance(payload, TextDone):
            builder.emit(payload, "assistant", payload.text)
        else:
            builder.emit(payload)
