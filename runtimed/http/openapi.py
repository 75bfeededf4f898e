"""The description of the API in OpenAPI 3.1, made from the routes themselves."""

import inspect
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Self, get_args, get_origin

import attrs
import orjson
from aiohttp import web
from apispec import APISpec

from runtimed import __version__, errors
from runtimed.http.binder import Parameter, Route
from runtimed.http.errors import status_of
from runtimed.http.schema import JsonSchema, Schemas
from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.model.event import EventEnvelope
from runtimed.wire.envelopes import ErrorResponse

EVERYWHERE: tuple[type[errors.RuntimedError], ...] = (
    errors.InvalidQuery,
    errors.RequestHeadTooLarge,
    errors.Unauthorized,
    errors.ForbiddenOrigin,
    errors.MisdirectedRequest,
    errors.StoreIo,
    errors.StoreMissing,
    errors.StoreCorrupt,
    errors.StatePoisoned,
    errors.Internal,
    errors.Unavailable,
)
"""What any route may answer."""

WITH_BODY = (errors.InvalidJson, errors.InvalidRequest, errors.PayloadTooLarge, errors.UnsupportedMediaType)
"""What a route that takes a body may answer besides."""


@attrs.frozen
class Document:
    """The finished description, as JSON."""

    json: bytes

    @classmethod
    def of(cls, nouns: Mapping[str, Iterable[Route]]) -> Self:
        """Describe the routes, each under the tag of its noun."""
        spec = APISpec(
            title="runtimed",
            version=__version__,
            openapi_version="3.1.0",
            info={"description": "A Runtime that hosts long-lived, message-driven Workers."},
            security=[{"token": []}],
        )
        spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
        schemas = Schemas()
        for tag, routes in nouns.items():
            for route in routes:
                operation = _operation(tag, route, schemas)
                spec.path(route.path, operations={route.method.lower(): operation})
        for kind in (EventEnvelope, FeedDiagnostic):
            schemas.of(kind)
        for name, schema in sorted(schemas.components.items()):
            spec.components.schema(name, schema)
        return cls(orjson.dumps(spec.to_dict()))


def _operation(tag: str, route: Route, schemas: Schemas) -> JsonSchema:
    operation: JsonSchema = {
        "operationId": route.handler.__name__,
        "summary": inspect.getdoc(route.handler),
        "tags": [tag],
        "parameters": [
            *(_parameter(parameter, "path") for parameter in route.in_path),
            *(_parameter(parameter, "query") for parameter in route.in_query),
        ],
        "responses": {**_success(route, schemas), **_failures(route, schemas)},
    }
    if route.body is not None:
        content = {"application/json": {"schema": schemas.of(route.body.kind)}}
        operation["requestBody"] = {"required": route.body.required, "content": content}
    return operation


def _parameter(parameter: Parameter, place: str) -> JsonSchema:
    schema: JsonSchema = {"type": "string"}
    if parameter.bounds is not None:
        schema = {
            "type": "integer",
            "minimum": parameter.bounds.minimum,
            "maximum": parameter.bounds.maximum,
        }
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.repeated:
        schema = {"type": "array", "items": schema}
    return {"name": parameter.name, "in": place, "required": parameter.required, "schema": schema}


def _success(route: Route, schemas: Schemas) -> JsonSchema:
    if route.answer is web.WebSocketResponse:
        frames = (
            "Text frames: an EventEnvelope in {kind: event, envelope}, at the end a FeedDiagnostic in "
            "{kind: diagnostic, diagnostic}."
        )
        return {"101": {"description": frames}}
    if get_origin(route.answer) is UnionType:
        page = next(kind for kind in get_args(route.answer) if attrs.has(kind))
        content = {
            "application/json": {"schema": schemas.of(page)},
            "text/event-stream": {"schema": {"type": "string"}},
        }
        return {"200": {"description": "A page, or as the Accept header has it a stream.", "content": content}}
    if route.answer is None or route.answer is type(None):
        return {"204": {"description": "Done; there is no body."}}
    schema = {"type": "object"} if route.answer is web.Response else schemas.of(route.answer)
    return {"200": {"description": "Done.", "content": {"application/json": {"schema": schema}}}}


def _failures(route: Route, schemas: Schemas) -> JsonSchema:
    kinds = [*EVERYWHERE, *route.raises, *(WITH_BODY if route.body is not None else ())]
    codes: dict[int, set[str]] = {}
    for kind in kinds:
        codes.setdefault(status_of(kind), set()).add(kind.code)
    schema = schemas.of(ErrorResponse)
    return {
        str(status): {
            "description": " or ".join(f"`{code}`" for code in sorted(found)),
            "content": {"application/json": {"schema": schema}},
        }
        for status, found in sorted(codes.items())
    }
