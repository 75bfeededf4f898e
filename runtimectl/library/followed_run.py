"""One run that a program waits for: what `Worker.run` returns, and when it fails."""

import time
from typing import TYPE_CHECKING, Any

from runtimectl.client.run_progress import End, RunProgress
from runtimectl.errors import RunFailed
from runtimectl.result import PermissionCounts, Result

if TYPE_CHECKING:
    from runtimed.model.event import Usage
    from runtimed.model.interaction import InteractionAck

INTERRUPT_GRACE_S = 5.0
"""Seconds that an interrupted run has to end by itself."""


class FollowedRun:
    """The run of an input.

    Args:
        worker_id: The Worker.
        ack: The acknowledgement of the input.

    Attributes:
        cursor: The cursor of the newest event.
    """

    def __init__(self, worker_id: str, ack: "InteractionAck") -> None:
        self._worker_id = worker_id
        self._begun = time.monotonic()
        self._progress = RunProgress()
        self._time_out: End | None = None
        self.cursor: str = ack.cursor

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self._progress.end is not None

    def record(self, envelope: dict[str, Any]) -> str | None:
        """Record an event. Returns the id of the permission request that it is, or None."""
        self._progress.record(envelope)
        self.cursor = envelope["cursor"]
        return next((str(request["request_id"]) for request in self._progress.unanswered()), None)

    def time_out(self, timeout: float) -> None:
        """Note that the run took too long."""
        self._time_out = End("timed_out", f"the run took longer than {timeout:g} s")

    def finish(self) -> Result:
        """Return the result. Raises RunFailed with it unless the run has finished."""
        progress = self._progress
        end = self._time_out or progress.end or End("lost", "the events ended before the run")
        if progress.denial and end.outcome not in {"finished", "timed_out"}:
            end = End("denied", progress.denial)
        result = Result(
            end.outcome,
            str(progress.text),
            self._worker_id,
            self.cursor,
            round((time.monotonic() - self._begun) * 1000),
            PermissionCounts(progress.asked, progress.denied, progress.expired),
            progress.exit_status,
            end.reason,
            _usage(progress.usage),
        )
        if result.outcome != "finished":
            raise RunFailed(result)
        return result


def _usage(data: dict[str, Any] | None) -> "Usage | None":
    if data is None:
        return None
    from runtimectl.library.decoding import structured
    from runtimed.model.event import Usage

    return structured(data, Usage)
