"""What the dispatcher finds is what aiohttp's router finds."""

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimed.core import Runtime
from runtimed.http import make_app
from runtimed.http.app import DISPATCHER
from runtimed.store.memory import MemoryStore

SEGMENTS = [
    "",
    "v1",
    "workers",
    "worker-00000001",
    "input",
    "stop",
    "transcript",
    "runtime",
    "config-bundles",
    "a.b:c",
]
SEGMENTS += ["availability", "openapi.json", "events", "ws", ".", "..", "%2f", "%61", "é", "a b", "{worker_id}", "-"]

paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6).map(lambda found: "/" + "/".join(found))


@pytest.fixture
async def app():
    async with Runtime(MemoryStore()) as runtime:
        yield make_app(runtime, token=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=400)
@given(path=paths, method=st.sampled_from(["GET", "POST", "HEAD", "DELETE"]))
async def test_a_path_that_is_found_means_the_same_to_aiohttp(app, path, method):
    found = app[DISPATCHER].find(method, path)
    if found is not None:
        bound, in_path = found
        match = await app.router.resolve(make_mocked_request(method, path))
        assert match.http_exception is None
        assert match.handler == bound.handle
        assert dict(match) == in_path


async def test_every_route_is_found_but_those_that_need_aiohttp(app):
    routes = [route for route in app.router.routes() if route.method != "HEAD"]
    templates = {(route.method, route.resource.canonical) for route in routes}
    found = {
        (bound.route.method, bound.route.path)
        for method, template in templates
        if (result := app[DISPATCHER].find(method, template.replace("{", "").replace("}", "")))
        for bound in [result[0]]
    }
    assert {path for _, path in templates - found} == {
        "/openapi.json",
        "/v1/workers/{worker_id}/events",
        "/v1/workers/{worker_id}/events/ws",
        "/v1/events",
        "/v1/events/ws",
    }
    assert len(found) == len(templates) - 5
