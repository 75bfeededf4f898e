"""The router finds what aiohttp's router finds."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import hdrs, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimed.core import Runtime
from runtimed.http import Api
from runtimed.http.app import NOUNS
from runtimed.http.errors import MethodNotAllowed, NotFound
from runtimed.store.memory import MemoryStore

SEGMENTS = [
    "",
    "v1",
    "workers",
    "worker-00000001",
    "input",
    "stop",
    "transcript",
    "permissions",
    "runtime",
    "config-bundles",
    "a.b:c",
    "availability",
    "openapi.json",
    "events",
    "ws",
    ".",
    "..",
    "%2f",
    "%2F%25",
    "%25",
    "%61",
    "%7Bx%7D",
    "%0A",
    "w%6Frkers",
    "%C3%A9",
    "a+b",
    "{worker_id}",
    "-",
]
ROUTES = [route for noun in NOUNS for route in noun.routes]

anything = (
    st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6)
    .map(lambda found: "/" + "/".join(found))
    .filter(lambda path: not path.startswith("//"))  # a mocked request would take what follows for a host
)


@st.composite
def near_routes(draw: st.DrawFn) -> str:
    """A path of a route, with anything for its parameters."""
    parts = draw(st.sampled_from(ROUTES)).path.split("/")
    return "/".join(draw(st.sampled_from(SEGMENTS)) if part.startswith("{") else part for part in parts)


async def never(_request: web.Request) -> web.Response:
    raise AssertionError("the router is only asked")


def of_aiohttp() -> web.UrlDispatcher:
    """aiohttp's router with the same routes."""
    dispatcher = web.UrlDispatcher()
    for route in ROUTES:
        if route.method == hdrs.METH_GET:
            dispatcher.add_get(route.path, never, allow_head=True)
        else:
            dispatcher.add_route(route.method, route.path, never)
    return dispatcher


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with Runtime(MemoryStore()) as runtime:
        yield Api(runtime, token=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=600)
@given(path=st.one_of(anything, near_routes()), method=st.sampled_from(["GET", "POST", "HEAD", "DELETE", "PUT"]))
async def test_a_request_reaches_what_it_would_reach_in_aiohttp(api: Api, path: str, method: str) -> None:
    request = make_mocked_request(method, path)
    expected = await of_aiohttp().resolve(request)

    if expected.http_exception is None:
        found = api.router.resolve(method, request.rel_url.path_safe)
        assert expected.route.resource is not None
        assert found.endpoint.route.path == expected.route.resource.canonical
        assert found.endpoint.route.method == ("GET" if method == "HEAD" else method)
        assert found.in_path == dict(expected)
        return
    with pytest.raises((NotFound, MethodNotAllowed)) as refused:
        api.router.resolve(method, request.rel_url.path_safe)
    if isinstance(expected.http_exception, web.HTTPMethodNotAllowed):
        assert isinstance(refused.value, MethodNotAllowed)
        assert refused.value.allowed == expected.http_exception.allowed_methods
    else:
        assert refused.type is NotFound


async def test_every_route_is_found_and_those_of_streams_waits_files_metrics_and_the_document_need_aiohttp(
    api: Api,
) -> None:
    found = [api.router.find(route.method, route.path.replace("{", "").replace("}", "")) for route in ROUTES]

    assert [match and match.endpoint.route for match in found] == ROUTES
    assert {match.endpoint.route.path for match in found if match and match.endpoint.needs_aiohttp} == {
        "/metrics",
        "/openapi.json",
        "/v1/runtime/backup",
        "/v1/workers/{worker_id}/workspaces/{name}/diff",
        "/v1/workers/{worker_id}/events",
        "/v1/workers/{worker_id}/events/ws",
        "/v1/workers/{worker_id}/wait",
        "/v1/events",
        "/v1/events/ws",
    }
