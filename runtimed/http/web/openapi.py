"""The OpenAPI 3.1 document of the API, generated from its routes."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Self, get_args, get_origin

import attrs
import orjson
from aiohttp import web
from apispec import APISpec

from runtimed import __version__, errors
from runtimed.http import errors as http_errors
from runtimed.http.errors import status_of
from runtimed.http.web.binding import Route
from runtimed.http.web.docstrings import Docstring
from runtimed.http.web.idempotency import IDEMPOTENCY_KEY, MAX_KEY
from runtimed.http.web.query import Parameter
from runtimed.http.web.responses import BackupResponse, MetricsResponse, PatchResponse
from runtimed.http.web.schema import JsonSchema, Schemas
from runtimed.model.diagnostic import FeedDiagnostic
from runtimed.model.event import EventEnvelope
from runtimed.model.principal import ROLES_BY_VERB
from runtimed.wire.envelopes import ErrorResponse

EVERYWHERE: tuple[type[errors.RuntimedError], ...] = (
    http_errors.InvalidQuery,
    http_errors.RequestHeadTooLarge,
    http_errors.Unauthorized,
    http_errors.ForbiddenOrigin,
    errors.Forbidden,
    http_errors.MisdirectedRequest,
    errors.RateLimited,
    errors.StoreIo,
    errors.StoreMissing,
    errors.StoreCorrupt,
    errors.StatePoisoned,
    errors.Internal,
    errors.Unavailable,
)
"""The errors of every route."""

OF_GUARDED = (http_errors.Unauthorized, http_errors.MisdirectedRequest)
"""Those of them that only a route has which asks for the token."""

WITH_BODY = (errors.InvalidJson, errors.InvalidRequest, http_errors.PayloadTooLarge, http_errors.UnsupportedMediaType)
"""The further errors of a route that takes a body."""

OPEN_METRICS = "application/openmetrics-text"

TOKEN = "A token of this Runtime. The security of each operation lists the roles that may call it."  # noqa: S105

_IDEMPOTENCY_KEY: JsonSchema = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
}


@attrs.frozen
class Document:
    """The finished document, as JSON."""

    json: bytes

    @classmethod
    def of(cls, nouns: Mapping[str, Iterable[Route]]) -> Self:
        """Return the document of these routes, each under the tag of its noun."""
        spec = APISpec(
            title="runtimed",
            version=__version__,
            openapi_version="3.1.0",
            info={"description": "A Runtime that hosts long-lived, message-driven Workers."},
            security=[{"token": []}],
        )
        spec.components.security_scheme("token", {"type": "http", "scheme": "bearer", "description": TOKEN})
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
    docstring = Docstring.of(route.handler)
    operation: JsonSchema = {
        "operationId": route.handler.__name__,
        "summary": docstring.summary,
        "tags": [tag],
        "parameters": [
            *(_parameter(parameter, "path") for parameter in route.in_path),
            *(_parameter(parameter, "query") for parameter in route.in_query),
            *([_IDEMPOTENCY_KEY] if route.key else []),
        ],
        "responses": {**_success(route, schemas), **_failures(route, schemas)},
    }
    if route.is_open:
        operation["security"] = []
    elif route.verb is not None:
        operation["security"] = [{"token": [role]} for role in ROLES_BY_VERB[route.verb]]
    if docstring.details:
        operation["description"] = docstring.details
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
    if route.returns is web.WebSocketResponse:
        frames = (
            "Text frames: an EventEnvelope in {kind: event, envelope}; the last one may be a FeedDiagnostic in "
            "{kind: diagnostic, diagnostic}."
        )
        return {"101": {"description": frames}}
    if get_origin(route.returns) is UnionType:
        page = next(kind for kind in get_args(route.returns) if attrs.has(kind))
        content = {
            "application/json": {"schema": schemas.of(page)},
            "text/event-stream": {"schema": {"type": "string"}},
        }
        return {"200": {"description": "A page, or a stream if the Accept header asks for one.", "content": content}}
    if route.returns is None or route.returns is type(None):
        return {"204": {"description": "Done. There is no body."}}
    if route.returns is PatchResponse:
        header = {"schema": {"type": "integer"}, "description": "How many files are left out of a large patch."}
        content = {PatchResponse.media_type: {"schema": {"type": "string"}}}
        return {"200": {"description": "A patch.", "headers": {PatchResponse.left_out: header}, "content": content}}
    if route.returns is BackupResponse:
        content = {BackupResponse.media_type: {"schema": {"type": "string", "format": "binary"}}}
        return {"200": {"description": "A backup.", "content": content}}
    if route.returns is MetricsResponse:
        content = {kind: {"schema": {"type": "string"}} for kind in (MetricsResponse.media_type, OPEN_METRICS)}
        return {"200": {"description": "The metrics.", "content": content}}
    schema = {"type": "object"} if route.returns is web.Response else schemas.of(route.returns)
    return {"200": {"description": "Done.", "content": {"application/json": {"schema": schema}}}}


def _failures(route: Route, schemas: Schemas) -> JsonSchema:
    everywhere = EVERYWHERE if not route.is_open else [kind for kind in EVERYWHERE if kind not in OF_GUARDED]
    kinds = [*everywhere, *route.raises, *(WITH_BODY if route.body is not None else ())]
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
