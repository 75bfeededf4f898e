"""The description of the API: complete, valid, and true of the running application."""

import asyncio
import contextlib
import importlib
import pkgutil
from typing import Any

import attrs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import checks
from schemathesis.core.result import Ok

import runtimed.model
from runtimed.http.app import NOUNS
from runtimed.http.web.docstrings import Docstring
from runtimed.model.transcript import TranscriptItem
from tests.http.conftest import TOKEN, Served

LAST = "drain_runtime"
"""The operation that has others refused from then on."""

SLOW = list(HealthCheck)
EXAMPLES = 20
"""Requests of each kind."""

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


async def document(served: Served) -> dict[str, Any]:
    async with served.client.get(f"{served.url}/openapi.json") as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found


async def test_it_is_valid_openapi_3_1(served: Served) -> None:
    found = await document(served)
    OpenAPIV31SpecValidator(found).validate()
    assert found["openapi"].startswith("3.1")


async def test_it_describes_every_route_and_every_route_is_there(served: Served) -> None:
    found = await document(served)
    described = {(method.upper(), path) for path, item in found["paths"].items() for method in item}
    assert described == {(route.method, route.path) for noun in NOUNS for route in noun.routes}
    assert described >= V1_ROUTES


async def test_each_attribute_of_a_docstring_describes_its_property(served: Served) -> None:
    schemas = (await document(served))["components"]["schemas"]

    described = {
        (name, field): schema["description"]
        for name, component in schemas.items()
        for field, schema in component.get("properties", {}).items()
        if "description" in schema
    }
    assert described["TranscriptItem", "cursor"] == "The same as a cursor."
    assert described["WorkerPermission", "worker_id"] == "The Worker that asks."
    assert described["WorkerPermission", "expires_at"] == "RFC 3339 in UTC, in whole seconds."
    item = schemas["SystemItem"]["properties"]["data"]["properties"]["item"]
    assert item["description"] == "A JSON object. Its field `kind` says what it is."
    assert schemas["TranscriptItem"]["description"] == Docstring.of(TranscriptItem).summary
    assert not [name for name, schema in schemas.items() if ":\n" in schema.get("description", "")]


def test_a_docstring_describes_no_field_that_its_class_lacks() -> None:
    kinds = [
        kind
        for module in pkgutil.iter_modules(runtimed.model.__path__, "runtimed.model.")
        for kind in vars(importlib.import_module(module.name)).values()
        if isinstance(kind, type) and attrs.has(kind)
    ]

    unknown = [
        (kind.__name__, name)
        for kind in kinds
        for name in Docstring.of(kind).attributes
        if name not in attrs.fields_dict(kind)
    ]

    assert len(kinds) > 50
    assert unknown == []


async def test_an_operation_has_a_summary_of_one_line(served: Served) -> None:
    paths = (await document(served))["paths"]

    operations = {operation["operationId"]: operation for item in paths.values() for operation in item.values()}

    assert all(operation["summary"] and "\n" not in operation["summary"] for operation in operations.values())
    assert operations["get_transcript"]["description"].startswith("`next_start` is where the next page begins.")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("quick", [True], indirect=True)  # aiohttp alone answers the same: server/test_connection.py
async def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(served: Served) -> None:
    found = await document(served)
    async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
        assert answer.status == 200
    statuses = await asyncio.to_thread(drive, found, served.url)
    assert set(statuses) == {route.handler.__name__ for noun in NOUNS for route in noun.routes}
    assert all(statuses.values())
    assert 200 in statuses["create_worker"]
    assert 400 in statuses["create_worker"]


def drive(found: dict[str, Any], url: str) -> dict[str, set[int]]:
    """Send what schemathesis makes of each operation, well-formed and not; the statuses answered, by operation."""
    schema = schemathesis.openapi.from_dict(found)
    schema.config.update(base_url=url)
    statuses: dict[str, set[int]] = {}
    operations = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operations.append(result.ok())
    operations.sort(key=lambda operation: operation.definition.raw["operationId"] == LAST)
    for operation in operations:
        seen = statuses.setdefault(operation.definition.raw["operationId"], set())
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            exercise(operation.as_strategy(generation_mode=mode), seen)
    return statuses


def exercise(cases: SearchStrategy[Any], seen: set[int]) -> None:
    @settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate], suppress_health_check=SLOW)
    @given(case=cases)
    def each(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        case.validate_response(answer, checks=CHECKS)
        seen.add(answer.status_code)

    with contextlib.suppress(Unsatisfiable):
        each()
