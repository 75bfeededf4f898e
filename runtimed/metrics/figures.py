"""What a scrape shows: counts since the start of the daemon, and its state at the time of the scrape."""

from collections.abc import Mapping

import attrs

from runtimed.core.histogram import CommitHistograms, Histogram
from runtimed.core.services.statistics import WorkerCounts
from runtimed.metrics.requests import RouteRequests
from runtimed.model.execution import LossReason, Outcome


@attrs.frozen
class Figures:
    """The figures of one scrape. The histograms go on counting.

    Attributes:
        is_ready: Whether the Runtime takes work.
        store: The kind of store.
        requests: HTTP requests by route template and method.
        gateway_requests: Requests of gateways by the name of the gateway and the status.
        auth_failures: Requests without a token, or with a wrong one.
        audit_losses: Records that are missing in the audit log.
        workers: The Workers.
        observers: The observers of the feed.
        feed_lag: By how much the slowest of them is behind, in sequences.
        spawns: Spawns by the answer of the backend.
        losses: Lost programs by reason.
        commits: The commits of the store.
        loop_lag: By how much the event loop was late, in seconds.
        event_bytes: The bytes of all retained events.
        store_bytes: The bytes of the store on the disk.
        free_bytes: The bytes that its disk has left, if it has one.
    """

    is_ready: bool
    store: str
    requests: Mapping[tuple[str, str], RouteRequests]
    gateway_requests: Mapping[tuple[str, int], int]
    auth_failures: int
    audit_losses: int
    workers: WorkerCounts
    observers: int
    feed_lag: int
    spawns: Mapping[Outcome, int]
    losses: Mapping[LossReason, int]
    commits: CommitHistograms
    loop_lag: Histogram
    event_bytes: int
    store_bytes: int
    free_bytes: int | None
