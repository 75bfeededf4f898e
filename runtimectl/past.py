"""The events that have happened, page by page."""

from collections.abc import Iterator, Sequence
from typing import Any

from runtimectl.client import Client
from runtimectl.errors import DaemonFailed

BEGINNING = "wo_0000000000000000"

Envelope = dict[str, Any]


def envelopes(
    client: Client, worker_id: str | None, labels: Sequence[str], cursor: str | None, upto: str
) -> Iterator[Envelope]:
    """The events of a Worker, or of all with the labels, up to a cursor: those behind `cursor`, None for all kept.

    The daemon is asked at least once, so that it refuses a cursor that is none or not kept.
    """
    more = True
    while more:
        page = client.events(worker_id, labels, cursor)
        for envelope in page["events"]:
            if envelope["cursor"] > upto:
                return
            yield envelope
        more = page["has_more"] and page["next_cursor"] < upto
        if more and page["next_cursor"] <= (cursor or BEGINNING):
            raise DaemonFailed("the daemon's pages of events lead nowhere")
        cursor = page["next_cursor"]


def newest(client: Client, labels: Sequence[str] = ()) -> str:
    """The cursor of the newest event of all Workers with the labels."""
    found = client.workers(labels=labels)["workers"]
    return max((worker["last_cursor"] for worker in found), default=BEGINNING)


def now(client: Client) -> str:
    """A cursor behind which are the events of all Workers from now on.

    The newest event of the Workers there are may be older than what is kept, after others were deleted.
    """
    kept: str = client.events(limit=1)["next_cursor"]
    return max(kept, newest(client))
