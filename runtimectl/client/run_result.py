"""The result of a run: what `runtimectl run` prints, writes and ends with."""

from typing import Any, NamedTuple

from runtimectl.client.run_progress import End, RunProgress

SIGNALED = 128
INTERRUPTED = 130
EXIT_CODES = {"failed": 1, "limit_reached": 1, "lost": 1, "denied": 123, "timed_out": 124, "refused": 125}
"""The exit code of each outcome, except `finished` (the command's own) and `interrupted` (that of the signal)."""


class Result(NamedTuple):
    """The result of a run.

    Attributes:
        end: Its outcome, and why it did not finish.
        progress: What its events said.
        worker_id: The Worker, or None if none was created.
        duration_ms: From the start of the command to the end of the run.
        exit_code: What the command ends with.
    """

    end: End
    progress: RunProgress
    worker_id: str | None
    duration_ms: int
    exit_code: int

    def body(self) -> dict[str, Any]:
        """Return the result as JSON has it."""
        progress = self.progress
        optional = {"exit_status": progress.exit_status, "reason": self.end.reason, "usage": progress.usage}
        permissions = {"asked": progress.asked, "denied": progress.denied, "expired": progress.expired}
        return {
            "outcome": self.end.outcome,
            "text": str(progress.text),
            "worker_id": self.worker_id,
            "cursor": progress.cursor,
            "duration_ms": self.duration_ms,
            "permissions": permissions,
            **{name: value for name, value in optional.items() if value is not None},
            **({"text_truncated": True} if progress.text.is_cut else {}),
        }


def exit_code(end: End, exit_status: int | None) -> int:
    """Return the exit code of a run that ended by its own events."""
    if end.outcome == "finished":
        return exit_status or 0
    return EXIT_CODES.get(end.outcome, INTERRUPTED)
