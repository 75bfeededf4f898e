"""The result of a run, as the client library returns it."""

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from runtimed.model.event import Usage

Outcome = Literal["finished", "failed", "denied", "limit_reached", "timed_out", "interrupted", "lost", "refused"]


class PermissionCounts(NamedTuple):
    """How many permissions a run asked for, and how many were denied or expired unanswered."""

    asked: int
    denied: int
    expired: int


class Result(NamedTuple):
    """The result of a run.

    Attributes:
        outcome: How it ended. A command that ends with a status that is not 0 has `finished` too.
        text: What the Worker wrote.
        worker_id: The Worker.
        cursor: The cursor of the last event of the run.
        duration_ms: From the input to the end of the run.
        permissions: What came of its permission requests.
        exit_status: The status of the command, or None if no command ran.
        reason: Why it did not finish.
        usage: The tokens that it used, if the agent reports them.
    """

    outcome: Outcome
    text: str
    worker_id: str
    cursor: str
    duration_ms: int
    permissions: PermissionCounts
    exit_status: int | None = None
    reason: str | None = None
    usage: "Usage | None" = None
