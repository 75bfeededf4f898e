"""The aiohttp application of a Runtime."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import hdrs, web

from runtimed.core.runtime import Runtime
from runtimed.errors import RuntimedError
from runtimed.feed import Feed
from runtimed.feed.feed import RING_BYTES
from runtimed.feed.unread import MAX_UNREAD_BYTES
from runtimed.http import bundles, feed, operations, permissions, transcripts, workers
from runtimed.http import runtime as runtime_routes
from runtimed.http.binder import Bound, expect_nothing
from runtimed.http.dispatcher import Dispatcher
from runtimed.http.errors import error_answer
from runtimed.http.feed import HEARTBEAT_S
from runtimed.http.guard import Guard
from runtimed.http.openapi import Document
from runtimed.http.requests import RequestProtocol
from runtimed.http.streams import Streams

MAX_BODY_BYTES = 8 * 2**20

NOUNS = (
    runtime_routes.routes,
    bundles.routes,
    workers.routes,
    permissions.routes,
    transcripts.routes,
    feed.routes,
    operations.routes,
)

DISPATCHER = web.AppKey("dispatcher", Dispatcher)
"""Where a server finds the routes that it can call without aiohttp's router."""


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
    """An application that serves a started Runtime; serve it, or mount it in another by `add_subapp`.

    It neither starts nor closes the Runtime. `token` is what every request must bear; None lets everybody in who
    reaches the socket. The Host header must name loopback or the address of the connection, with its port, or one of
    `allowed_hosts`. Feeds are closed when the application shuts down.
    """
    streams = Streams(Feed(runtime, ring_bytes, max_unread_bytes), heartbeat_s)
    guard = Guard(token, allowed_hosts)
    services = {
        Runtime: runtime,
        Streams: streams,
        Document: Document.of({noun.tag: noun.routes for noun in NOUNS}),
    }
    parsing = asyncio.Lock()
    routes = [
        Bound(route, services, runtime.limits, max_body_bytes, parsing) for noun in NOUNS for route in noun.routes
    ]
    app = web.Application(middlewares=[_gate(guard)])
    app.add_routes(map(_route, routes))
    app[DISPATCHER] = Dispatcher(guard, (bound for bound in routes if bound.bare))

    async def drain(_app: web.Application) -> None:
        guard.close()
        await streams.close()

    app.on_shutdown.append(drain)
    return app


def _route(bound: Bound) -> web.RouteDef:
    options: dict[str, Any] = {"expect_handler": expect_nothing}
    if bound.route.method == hdrs.METH_GET:
        options["allow_head"] = True
    return web.RouteDef(bound.route.method, bound.route.path, bound.handle, options)


def _gate(guard: Guard) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def gate(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            await guard.admit(request)
        except RuntimedError as error:
            refusal = error_answer(error).response()
            refusal.force_close()
            return refusal
        if isinstance(request.protocol, RequestProtocol):
            request.protocol.admitted()
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 every error gets its response here
            response = error_answer(error).response()
        if _asks_for_more_than_http(request) and not isinstance(response, web.WebSocketResponse):
            response.force_close()
        return response

    return gate


def _asks_for_more_than_http(request: web.Request) -> bool:
    """Whether what follows the request is not to be taken for another one."""
    return request.method == hdrs.METH_CONNECT or request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
