"""Who asks, and what a route does."""

import asyncio

import pytest
from aiohttp import web

from runtimed.core import Runtime
from runtimed.http import Api
from runtimed.http.app import NOUNS
from runtimed.http.web.binding import Routes
from runtimed.model.principal import ADMIN, Principal
from tests.http.conftest import serving


def asking() -> Routes:
    """Routes that answer who asks them: at once, after a wait, and by a request of aiohttp."""
    routes = Routes("asking")

    @routes.get("/at-once", "read")
    def at_once(principal: Principal) -> Principal:
        return principal

    @routes.post("/after-a-wait", "input")
    async def after_a_wait(principal: Principal) -> Principal:
        await asyncio.sleep(0)
        return principal

    @routes.get("/by-aiohttp", "read")
    async def by_aiohttp(principal: Principal, request: web.BaseRequest) -> Principal:
        assert request.path == "/by-aiohttp"
        return principal

    return routes


@pytest.mark.usefixtures("quick")
async def test_a_handler_that_asks_for_the_principal_is_given_the_one_that_the_guard_admitted(
    runtime: Runtime,
) -> None:
    asked = [("GET", "/at-once"), ("GET", "/at-once"), ("POST", "/after-a-wait"), ("GET", "/by-aiohttp")]
    answers = []
    async with serving(runtime, nouns=[asking()]) as served:
        for method, path in asked:
            async with served.client.request(method, f"{served.url}{path}") as answer:
                answers.append((answer.status, await answer.json()))

    assert answers == [(200, {"name": ADMIN.name, "role": "admin"})] * 4


async def test_an_application_does_not_start_with_a_route_that_declares_no_verb(runtime: Runtime) -> None:
    routes = Routes("silent")

    @routes.delete("/silent")
    def silent() -> None:
        raise AssertionError("the application does not start")

    with pytest.raises(ValueError, match=r"^DELETE /silent: the route declares no verb$"):
        Api(runtime, token=None, nouns=[*NOUNS, routes])


def test_only_a_get_reads_and_a_get_that_does_more_says_so() -> None:
    verbs = {(route.method, route.path): route.verb for noun in NOUNS for route in noun.routes}

    assert {verb for (method, _), verb in verbs.items() if method != "GET"}.isdisjoint({"read", None})
    assert {path: verb for (method, path), verb in verbs.items() if method == "GET" and verb != "read"} == {
        "/v1/runtime/check": "check",
        "/v1/workers/{worker_id}/wait": "wait",
        "/v1/tokens": "tokens",
        "/v1/runtime/backup": "backup",
        "/metrics": "metrics",
    }
