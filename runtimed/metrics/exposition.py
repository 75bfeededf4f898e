"""The metrics of a daemon, as Prometheus scrapes them."""

import asyncio
from collections.abc import Callable, Mapping

from runtimed.audit import AuditLog
from runtimed.core.runtime import Runtime
from runtimed.feed import Feed
from runtimed.metrics.figures import Figures
from runtimed.metrics.loop_lag import LoopLag
from runtimed.metrics.requests import Requests


def _no_requests() -> Mapping[tuple[str, int], int]:
    return {}


class Metrics:
    """Reads the figures of a daemon when they are asked for, and writes them in the formats of Prometheus.

    Args:
        runtime: The Runtime.
        feed: Its feed.
        requests: The HTTP requests.
        auth_failures: Gives the number of requests without a token or with a wrong one.
        gateway_requests: Gives the requests of gateways by the name of the gateway and the status of the response.
        audit_log: The audit log, or None.

    Attributes:
        loop_lag: Measures the event loop. The owner of the daemon's life has it measure.
    """

    def __init__(
        self,
        runtime: Runtime,
        feed: Feed,
        requests: Requests,
        auth_failures: Callable[[], int],
        gateway_requests: Callable[[], Mapping[tuple[str, int], int]] | None = None,
        audit_log: AuditLog | None = None,
    ) -> None:
        self.loop_lag = LoopLag()
        self._runtime = runtime
        self._feed = feed
        self._requests = requests
        self._auth_failures = auth_failures
        self._gateway_requests = gateway_requests or _no_requests
        self._audit_log = audit_log
        self._writing = asyncio.Lock()

    def readiness(self) -> str | None:
        """Return why the daemon does not take work now, as `word: explanation`, or None if it does."""
        return self._runtime.readiness() or (self._audit_log.problem if self._audit_log is not None else None)

    async def write(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of now and their content type. One scrape at a time is served; others wait.

        Args:
            accept: The Accept header of the request, or empty text. It chooses between the text format of
                Prometheus and OpenMetrics.
        """
        async with self._writing:
            return await asyncio.to_thread(_encode, await self._read(), accept)

    async def _read(self) -> Figures:
        statistics = self._runtime.statistics
        workers = await statistics.workers()
        return Figures(
            is_ready=self.readiness() is None,
            store=statistics.store_kind,
            requests=self._requests.by_route,
            gateway_requests=dict(self._gateway_requests()),
            auth_failures=self._auth_failures(),
            audit_losses=self._audit_log.failed if self._audit_log is not None else 0,
            workers=workers,
            observers=self._feed.observer_count,
            feed_lag=self._feed.max_lag(),
            spawns=dict(statistics.spawns),
            losses=dict(statistics.losses),
            commits=statistics.commits,
            loop_lag=self.loop_lag.seconds,
            event_bytes=statistics.event_bytes,
            store_bytes=statistics.store_bytes,
            free_bytes=statistics.free_bytes,
        )


def _encode(figures: Figures, accept: str) -> tuple[bytes, str]:
    from runtimed.metrics import families  # imports a library that only a scrape needs

    return families.encode(figures, accept)
