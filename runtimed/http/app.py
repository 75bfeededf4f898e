"""The HTTP API of a Runtime: all routes, put together."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from aiohttp import hdrs, web

from runtimed.audit import AuditLog
from runtimed.core.runtime import Runtime
from runtimed.feed import Feed, Waits
from runtimed.feed.feed import RING_BYTES
from runtimed.feed.unread import MAX_UNREAD_BYTES
from runtimed.http.api import (
    backups,
    bundles,
    operations,
    permissions,
    profiles,
    tokens,
    transcripts,
    waits,
    workers,
    workspaces,
)
from runtimed.http.api import runtime as runtime_routes
from runtimed.http.streaming import feed
from runtimed.http.streaming.feed import HEARTBEAT_S
from runtimed.http.streaming.streams import Streams
from runtimed.http.web.application import ApiApplication
from runtimed.http.web.audit import AuditTrail
from runtimed.http.web.binding import Route, Routes
from runtimed.http.web.endpoint import Endpoint
from runtimed.http.web.guard import Guard
from runtimed.http.web.openapi import Document
from runtimed.http.web.router import Router
from runtimed.metrics.exposition import Metrics
from runtimed.metrics.requests import Requests
from runtimed.model.principal import ADMIN

MAX_BODY_BYTES = 8 * 2**20

NOUNS = (
    runtime_routes.routes,
    backups.routes,
    bundles.routes,
    profiles.routes,
    workers.routes,
    waits.routes,
    permissions.routes,
    transcripts.routes,
    workspaces.routes,
    feed.routes,
    tokens.routes,
    operations.routes,
)

DESCRIBED = 2
"""How many sets of routes are described once for all."""

REST = "/{path:(?s:.*)}"
"""Every path below the place where the API is mounted."""


@lru_cache(DESCRIBED)
def describe(nouns: tuple[Routes, ...]) -> Document:
    """Return the OpenAPI document of these routes. A process with many Apis makes it once."""
    return Document.of({noun.tag: noun.routes for noun in nouns})


class Api(ApiApplication):
    """The API of a started Runtime. It neither starts nor closes the Runtime.

    Args:
        runtime: The Runtime.
        token: The first token, which grants full access. With None, anyone who reaches the socket has full access.
        allowed_hosts: Accepted in the Host header, besides loopback and the address of the connection.
        max_body_bytes: The largest body that is accepted.
        ring_bytes: How much of the newest part of the feed is kept in memory.
        max_unread_bytes: How much the feed holds for observers that read too slowly, for all of them together.
        heartbeat_s: How often a WebSocket is pinged, in seconds.
        audit_log: Where requests that change something are recorded, or None for nowhere.
        gateway_requests: Gives how many requests gateways have answered, by name of the gateway and status.
        nouns: The routes.

    Attributes:
        endpoints: All routes.
        metrics: The metrics of the daemon.

    Raises:
        ValueError: A route declares no verb.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        token: str | None,
        allowed_hosts: Iterable[str] = (),
        max_body_bytes: int = MAX_BODY_BYTES,
        ring_bytes: int = RING_BYTES,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        heartbeat_s: float = HEARTBEAT_S,
        audit_log: AuditLog | None = None,
        gateway_requests: Callable[[], Mapping[tuple[str, int], int]] | None = None,
        nouns: Iterable[Routes] = NOUNS,
    ) -> None:
        nouns, guard, requests = tuple(nouns), Guard(token, allowed_hosts, runtime.authenticate), Requests()
        routes = [route for noun in nouns for route in noun.routes]
        _check_verbs(routes)
        observed = Feed(runtime, ring_bytes, max_unread_bytes)
        self._streams = Streams(observed, heartbeat_s)
        document = describe(nouns)
        self.metrics = Metrics(runtime, observed, requests, lambda: guard.failures, gateway_requests, audit_log)
        services = {
            Runtime: runtime,
            Streams: self._streams,
            Waits: Waits(observed),
            Document: document,
            Metrics: self.metrics,
        }
        parsing = asyncio.Lock()
        self.endpoints = [Endpoint(route, services, runtime.limits, max_body_bytes, parsing) for route in routes]
        super().__init__(Router(self.endpoints), guard, runtime.quotas, AuditTrail(audit_log), requests)
        self._runtime = runtime
        self._closed = False
        runtime.watch_tokens(self.end_token)

    def replace_token(self, token: str) -> None:
        """Take another first token. The feeds and waits of the one before end."""
        self.guard.replace_token(token)
        self.end_token(ADMIN.name)

    async def close(self) -> None:
        """Admit no more requests, and end every feed. May be called again."""
        if not self._closed:
            self._closed = True
            self._runtime.unwatch_tokens(self.end_token)
        await super().close()
        await self._streams.close()


class MetricsApi(ApiApplication):
    """The metrics and probes of an Api alone, without a token, for an address of their own.

    Args:
        api: The whole API. It counts these requests with its own.
        allowed_hosts: Accepted in the Host header of a scrape, besides loopback and the address of the connection.
    """

    def __init__(self, api: Api, allowed_hosts: Iterable[str] = ()) -> None:
        served = [endpoint for endpoint in api.endpoints if endpoint.route.path in operations.ON_METRICS_LISTENER]
        super().__init__(Router(served), Guard(None, allowed_hosts), api.quotas, api.audit, api.requests)


def make_app(
    runtime: Runtime,
    *,
    token: str | None,
    allowed_hosts: Iterable[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    ring_bytes: int = RING_BYTES,
    max_unread_bytes: int = MAX_UNREAD_BYTES,
    heartbeat_s: float = HEARTBEAT_S,
) -> web.Application:
    """Return an aiohttp application that serves a started Runtime.

    Serve it alone, or mount it in another application with `add_subapp`. Feeds end when the application shuts down.
    The arguments are those of Api.
    """
    api = Api(
        runtime,
        token=token,
        allowed_hosts=allowed_hosts,
        max_body_bytes=max_body_bytes,
        ring_bytes=ring_bytes,
        max_unread_bytes=max_unread_bytes,
        heartbeat_s=heartbeat_s,
    )

    async def serve(request: web.Request) -> web.StreamResponse:
        resource = request.match_info.route.resource
        prefix = resource.canonical.removesuffix("/{path}").rstrip("/") if resource is not None else ""
        return await api.handle(request, request.rel_url.path_safe[len(prefix) :])

    async def close(_app: web.Application) -> None:
        await api.close()

    app = web.Application()
    for path in ("", REST):
        app.router.add_route(hdrs.METH_ANY, path, serve, expect_handler=_send_nothing)
    app.on_shutdown.append(close)
    return app


def _check_verbs(routes: Iterable[Route]) -> None:
    for route in routes:
        if route.verb is None:
            raise ValueError(f"{route.method} {route.path}: the route declares no verb")


async def _send_nothing(_request: web.Request) -> None:
    """Send no `100 Continue` yet: the body reader sends it once the guard has admitted the request."""
