"""The metric families, as prometheus-client has them: names, labels and help texts."""

import platform
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from math import inf
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from runtimed import __version__
from runtimed.core.histogram import Histogram
from runtimed.metrics.figures import Figures
from runtimed.model.execution import LossReason, Outcome, RunState, WorkerStatus

OTHER_STATUS = "other"
"""Stands for all statuses of upstreams that HTTP does not define."""

KNOWN_STATUSES = frozenset({*map(int, HTTPStatus), 499})
"""The statuses of HTTP, and the one of a gateway whose client left before the response."""


class FigureCollector:
    """Gives the figures of one scrape to a registry of prometheus-client."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield from _of_daemon(self._figures)
        yield from _of_http(self._figures)
        yield from _of_workers(self._figures)
        yield from _of_feed(self._figures)
        yield from _of_store(self._figures)


def encode(figures: Figures, accept: str) -> tuple[bytes, str]:
    """Return figures in the format that an Accept header asks for, and the content type. Reads files of /proc."""
    registry = CollectorRegistry()
    registry.register(FigureCollector(figures))
    ProcessCollector(registry=registry)
    try:
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type
    except (TypeError, ValueError):  # a version in the header that is no version
        encoder, content_type = choose_encoder("")
        return encoder(registry), content_type


def _of_daemon(figures: Figures) -> Iterator[Metric]:
    build = {"version": __version__, "python": platform.python_version(), "store": figures.store}
    yield InfoMetricFamily("runtimed_build", "The version of runtimed and of Python, and the kind of store.", build)
    yield _gauge("runtimed_ready", "1 if /readyz answers 200, else 0.", figures.is_ready)
    yield _histogram(
        "runtimed_loop_lag_seconds", "By how much the event loop was late, measured twice a second.", figures.loop_lag
    )


def _of_http(figures: Figures) -> Iterator[Metric]:
    labels = ["route", "method"]
    total = CounterMetricFamily(
        "runtimed_http_requests", "HTTP requests that were answered.", labels=[*labels, "status"]
    )
    seconds = HistogramMetricFamily(
        "runtimed_http_request_seconds", "The time until a response was ready, without feeds.", labels=labels
    )
    for (route, method), requests in sorted(figures.requests.items()):
        for status, count in sorted(requests.statuses.items()):
            total.add_metric([route, method, str(status)], count)
        if requests.seconds.count:
            _add(seconds, [route, method], requests.seconds)
    yield total
    yield seconds
    yield _counter("runtimed_auth_failures", "Requests without a token, or with a wrong one.", figures.auth_failures)
    yield _counter("runtimed_audit_losses", "Records that are missing in the audit log.", figures.audit_losses)
    yield _labeled(
        CounterMetricFamily(
            "runtimed_gateway_requests", "Requests that gateways have answered.", labels=["gateway", "status"]
        ),
        _by_known_status(figures.gateway_requests),
    )


def _of_workers(figures: Figures) -> Iterator[Metric]:
    states = {
        (status, state): figures.workers.by_state[status, state]
        for status in get_args(WorkerStatus)
        for state in get_args(RunState)
    }
    yield _labeled(
        GaugeMetricFamily("runtimed_workers", "Workers by what they are doing.", labels=["status", "run_state"]),
        states,
    )
    yield _labeled(
        GaugeMetricFamily(
            "runtimed_workers_by_profile",
            "Workers that something runs, by profile and by what confines their programs.",
            labels=["profile", "sandbox"],
        ),
        figures.workers.by_profile,
    )
    yield _gauge(
        "runtimed_permissions_pending", "Permission requests that wait for an answer.", figures.workers.permissions
    )
    yield _labeled(
        CounterMetricFamily("runtimed_spawns", "Attempts to start what runs a Worker.", labels=["outcome"]),
        {(outcome,): figures.spawns.get(outcome, 0) for outcome in get_args(Outcome)},
    )
    yield _labeled(
        CounterMetricFamily("runtimed_agent_losses", "Programs of Workers that were lost.", labels=["reason"]),
        {(reason,): figures.losses.get(reason, 0) for reason in get_args(LossReason)},
    )


def _of_feed(figures: Figures) -> Iterator[Metric]:
    yield _gauge("runtimed_observers", "Observers of the feed.", figures.observers)
    yield _gauge(
        "runtimed_feed_lag_events", "By how many sequences the slowest observer is behind.", figures.feed_lag
    )
    yield _gauge("runtimed_event_bytes", "Bytes of all retained events.", figures.event_bytes)


def _of_store(figures: Figures) -> Iterator[Metric]:
    yield _gauge("runtimed_store_bytes", "Bytes of the store on the disk.", figures.store_bytes)
    if figures.free_bytes is not None:
        yield _gauge("runtimed_store_free_bytes", "Bytes that the disk of the store has left.", figures.free_bytes)
    yield _histogram("runtimed_commit_seconds", "The time that the store took for a commit.", figures.commits.seconds)
    yield _histogram("runtimed_commit_changes", "Changes that were committed together.", figures.commits.changes)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def _histogram(name: str, text: str, values: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[])
    _add(family, [], values)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], values: Histogram) -> None:
    buckets = [("+Inf" if bound == inf else str(float(bound)), float(count)) for bound, count in values.cumulative()]
    family.add_metric(labels, buckets, values.sum)


def _labeled(family: Any, values: Mapping[tuple[Any, ...], int]) -> Metric:
    for labels, value in sorted(values.items()):
        family.add_metric([str(label) for label in labels], value)
    found: Metric = family
    return found


def _by_known_status(requests: Mapping[tuple[str, int], int]) -> Mapping[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for (gateway, status), count in requests.items():
        key = gateway, str(status) if status in KNOWN_STATUSES else OTHER_STATUS
        found[key] = found.get(key, 0) + count
    return found
