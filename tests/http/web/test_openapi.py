"""The description of the API: complete, valid, and true of the running application."""

import asyncio
import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import checks

from runtimed.http.app import NOUNS
from tests.http.conftest import TOKEN

SLOW = list(HealthCheck)

V1_ROUTES = {
    ("GET", "/v1/runtime"),
    ("GET", "/v1/config-bundles"),
    ("POST", "/v1/config-bundles"),
    ("GET", "/v1/config-bundles/{bundle_id}/availability"),
    ("GET", "/v1/workers"),
    ("POST", "/v1/workers"),
    ("GET", "/v1/workers/{worker_id}"),
    ("POST", "/v1/workers/{worker_id}/input"),
    ("POST", "/v1/workers/{worker_id}/stop"),
    ("POST", "/v1/workers/{worker_id}/cancel"),
    ("GET", "/v1/workers/{worker_id}/transcript"),
    ("GET", "/v1/workers/{worker_id}/events/ws"),
}

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)


async def document(served):
    async with served.client.get(f"{served.url}/openapi.json") as answer:
        assert answer.status == 200
        return await answer.json()


async def test_it_is_valid_openapi_3_1(served):
    found = await document(served)
    OpenAPIV31SpecValidator(found).validate()
    assert found["openapi"].startswith("3.1")


async def test_it_describes_every_route_and_every_route_is_there(served):
    found = await document(served)
    described = {(method.upper(), path) for path, item in found["paths"].items() for method in item}
    assert described == {(route.method, route.path) for noun in NOUNS for route in noun.routes}
    assert described >= V1_ROUTES


@pytest.mark.timeout(240)
async def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(served):
    found = await document(served)
    async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
        assert answer.status == 200
    statuses = await asyncio.to_thread(drive, found, served.url)
    assert set(statuses) == {route.handler.__name__ for noun in NOUNS for route in noun.routes}
    assert all(statuses.values())
    assert 200 in statuses["create_worker"]
    assert 400 in statuses["create_worker"]


def drive(found, url):
    """Send what schemathesis makes of each operation, well-formed and not; the statuses answered, by operation."""
    schema = schemathesis.openapi.from_dict(found)
    schema.config.update(base_url=url)
    statuses = {}
    for operation in (result.ok() for result in schema.get_all_operations()):
        seen = statuses.setdefault(operation.definition.raw["operationId"], set())
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            exercise(operation.as_strategy(generation_mode=mode), seen)
    return statuses


def exercise(cases, seen):
    @settings(max_examples=40, database=None, phases=[Phase.generate], suppress_health_check=SLOW)
    @given(case=cases)
    def each(case):
        answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        case.validate_response(answer, checks=CHECKS)
        seen.add(answer.status_code)

    with contextlib.suppress(Unsatisfiable):
        each()
