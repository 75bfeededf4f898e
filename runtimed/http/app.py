"""The aiohttp application of a Runtime."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from runtimed.core.runtime import Runtime
from runtimed.feed import Feed
from runtimed.feed.feed import RING_BYTES
from runtimed.http import bundles, feed, operations, transcripts, workers
from runtimed.http import runtime as runtime_routes
from runtimed.http.binder import Route, bind, expect_nothing
from runtimed.http.errors import as_runtimed_error, error_response
from runtimed.http.feed import HEARTBEAT_S, Sockets
from runtimed.http.guard import Guard
from runtimed.http.openapi import Document

MAX_BODY_BYTES = 8 * 2**20

NOUNS = (runtime_routes.routes, bundles.routes, workers.routes, transcripts.routes, feed.routes, operations.routes)


def make_app(
    runtime: Runtime,
    *,
    token: str | None,
    allowed_hosts: Iterable[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    ring_bytes: int = RING_BYTES,
    heartbeat_s: float = HEARTBEAT_S,
) -> web.Application:
    """An application that serves a started Runtime; serve it, or mount it in another by `add_subapp`.

    It neither starts nor closes the Runtime. `token` is what every request must bear; None lets everybody in who
    reaches the socket. The Host header must name loopback or the address of the connection, with its port, or one of
    `allowed_hosts`. Feeds are closed when the application shuts down.
    """
    sockets = Sockets(Feed(runtime, ring_bytes), heartbeat_s)
    guard = Guard(token, allowed_hosts)
    services = {
        Runtime: runtime,
        Sockets: sockets,
        Document: Document.of({noun.tag: noun.routes for noun in NOUNS}),
    }
    app = web.Application(middlewares=[_gate(guard)])
    for noun in NOUNS:
        app.add_routes(_route(route, services, max_body_bytes) for route in noun.routes)

    async def drain(_app: web.Application) -> None:
        guard.close()
        await sockets.close()

    app.on_shutdown.append(drain)
    return app


def _route(route: Route, services: dict[type, object], max_body_bytes: int) -> web.RouteDef:
    options: dict[str, Any] = {"expect_handler": expect_nothing}
    if route.method == "GET":
        options["allow_head"] = False
    return web.RouteDef(route.method, route.path, bind(route, services, max_body_bytes), options)


def _gate(guard: Guard) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def gate(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            await guard.admit(request)
            return await handler(request)
        except Exception as error:  # noqa: BLE001 every error gets its response here
            return error_response(as_runtimed_error(error))

    return gate
