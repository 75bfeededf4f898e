"""Routes for operators and tools that belong to no noun of the Runtime."""

from aiohttp import hdrs, web

from runtimed.core.runtime import Runtime
from runtimed.errors import Unavailable
from runtimed.http.web.binding import Routes
from runtimed.http.web.openapi import Document
from runtimed.http.web.responses import HEADERS, MetricsResponse
from runtimed.metrics.exposition import Metrics
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import HealthResponse

ON_METRICS_LISTENER = frozenset({paths.LIVEZ, paths.READYZ, paths.METRICS})
"""The routes that `--listen-metrics` serves, without a token."""

routes = Routes("operations")


@routes.get(paths.LIVEZ, "read", is_open=True)
def get_livez(runtime: Runtime) -> HealthResponse:
    """Get whether the daemon works: its event loop turns, and no write to its store has failed for good."""
    return _healthy(runtime.failure)


@routes.get(paths.READYZ, "read", is_open=True)
def get_readyz(metrics: Metrics) -> HealthResponse:
    """Get whether the daemon takes work: its store is open and has space, and the daemon is not ending."""
    return _healthy(metrics.readiness())


def _healthy(reason: str | None) -> HealthResponse:
    if reason is not None:
        raise Unavailable(reason)
    return HealthResponse("ok")


@routes.get(paths.METRICS, "metrics")
async def get_metrics(metrics: Metrics, request: web.BaseRequest) -> MetricsResponse:
    """Get the metrics of the daemon for Prometheus, in its text format or as OpenMetrics, by the Accept header."""
    return MetricsResponse(*await metrics.write(request.headers.get(hdrs.ACCEPT, "")))


@routes.get(paths.OPENAPI, "read")
def get_openapi(document: Document) -> web.Response:
    """Get this description of the API, in OpenAPI 3.1."""
    return web.Response(body=document.json, headers=HEADERS)
