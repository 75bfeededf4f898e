"""Lists that the daemon returns, some in pages."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from runtimectl.errors import DaemonFailed, UsageProblem

if TYPE_CHECKING:
    from runtimed.model.transcript import TranscriptProjection
    from runtimed.model.worker import WorkerSummary
    from runtimed.model.workspace import Workspace
    from runtimed.wire.envelopes import EventsResponse, WorkersResponse


def after_page(after: str | None, page: "WorkersResponse") -> str | None:
    """Return the id after which the next page begins, or None after the last page.

    Raises:
        DaemonFailed: The page does not lead past the one before.
    """
    if page.next_after is not None and page.next_after <= (after or ""):
        raise DaemonFailed("unexpected response: the daemon returned the same page of Workers twice")
    return page.next_after


def next_start(start: int, page: "TranscriptProjection") -> int | None:
    """Return where the next page begins, or None after the last page.

    Raises:
        DaemonFailed: The page does not lead past the one before.
    """
    if page.next_start is not None and page.next_start <= start:
        raise DaemonFailed("unexpected response: the daemon returned the same page of a transcript twice")
    return page.next_start


def live_cursor(first: "EventsResponse", workers: "Iterable[WorkerSummary]") -> str:
    """Return a cursor behind which only events from now on follow.

    After Workers were deleted, the newest event of the others may be older than the oldest cursor that is accepted.

    Args:
        first: The page with the oldest event that is kept.
        workers: All Workers.
    """
    return max([first.next_cursor, *(worker.last_cursor for worker in workers)])


def working_folder(workspaces: "Iterable[Workspace]") -> str:
    """Return the name of the workspace that a Worker works in: `cwd`, or else its first.

    Raises:
        UsageProblem: It has no workspaces.
    """
    names = [workspace.name for workspace in workspaces]
    if not names:
        raise UsageProblem("name: the Worker has no workspaces")
    return "cwd" if "cwd" in names else names[0]
