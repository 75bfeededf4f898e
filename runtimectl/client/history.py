"""Past events, read page by page."""

from collections.abc import Iterator, Sequence
from typing import Any

from runtimectl.client.api import Client
from runtimectl.errors import DaemonFailed

OLDEST_CURSOR = "wo_0000000000000000"
"""The cursor before all events."""

Envelope = dict[str, Any]


def read_events(
    client: Client, worker_id: str | None, labels: Sequence[str], after: str | None, until: str
) -> Iterator[Envelope]:
    """Read events up to a cursor. The daemon is asked at least once, so that it can refuse the cursor `after`.

    Args:
        client: The daemon.
        worker_id: The Worker, or None for all Workers.
        labels: With all Workers: only those with these labels, each as K=V.
        after: The cursor of the last event to skip, or None to begin with the oldest event that is kept.
        until: The cursor of the last event to read.

    Raises:
        DaemonFailed: A page does not lead past the one before.
    """
    has_more = True
    while has_more:
        page = client.events(worker_id, labels, after)
        for envelope in page["events"]:
            if envelope["cursor"] > until:
                return
            yield envelope
        has_more = page["has_more"] and page["next_cursor"] < until
        if has_more and page["next_cursor"] <= (after or OLDEST_CURSOR):
            raise DaemonFailed("unexpected response: the daemon returned the same page of events twice")
        after = page["next_cursor"]


def newest_cursor(client: Client, labels: Sequence[str] = ()) -> str:
    """Return the cursor of the newest event of all Workers with the labels."""
    workers = client.workers(labels=labels)["workers"]
    return max((worker["last_cursor"] for worker in workers), default=OLDEST_CURSOR)


def live_cursor(client: Client) -> str:
    """Return a cursor of all Workers after which only new events follow.

    After Workers were deleted, the newest event of the others may be older than the oldest cursor that is accepted.
    """
    oldest_kept: str = client.events(limit=1)["next_cursor"]
    return max(oldest_kept, newest_cursor(client))
