"""Typed functions as routes: the signature of a function says what is read from path, query and body.

A parameter is bound by its name and annotation:

- A name in the path is read from there.
- An attrs class of a POST is the body. It is optional if the parameter has a default.
- From the query come `str`, a `Literal` of the accepted texts, `int` with bounds by `Number`, and `tuple[str, ...]`,
  which may be repeated. An underscore at the end of a name that Python reserves is left out: `for_` takes `for`.
- `Principal` is the client, and `web.BaseRequest` the request of aiohttp.
- `IdempotencyKey | None` is the key that the header `Idempotency-Key` gives the request.
- Anything else is a service of the application, found by its type.
"""

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from aiohttp import hdrs

from runtimed.errors import RuntimedError
from runtimed.http.web.body import Body
from runtimed.http.web.query import Number, Parameter
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.principal import Principal, Verb

Handler = Callable[..., Any]
"""A coroutine function, or a plain one that waits for nothing."""

Decorator = Callable[[Handler], Handler]


@attrs.frozen
class Route:
    """A typed function under a method and a path.

    Attributes:
        method: GET, POST or DELETE. A GET route answers HEAD as well.
        path: The path, with parameters as `{name}`.
        handler: The function.
        verb: What the route does, for authorization. An application does not start with a route that has none.
        raises: The errors that this route adds to those of every route.
        returns: The annotation of the result.
        services: Name and type of each parameter that is neither in the path nor in the query, and not the body.
        in_path: The parameters in the path.
        in_query: The parameters in the query.
        body: The parameter that takes the body.
        key: The name of the parameter that takes the idempotency key, or None.
        is_open: Whether the route is answered without a token, and whatever host the request names.
    """

    method: str
    path: str
    handler: Handler
    verb: Verb | None
    raises: tuple[type[RuntimedError], ...]
    returns: Any
    services: tuple[tuple[str, type], ...]
    in_path: tuple[Parameter, ...]
    in_query: tuple[Parameter, ...]
    body: Body | None
    key: str | None = None
    is_open: bool = False


class Routes:
    """Collects the routes of one noun; each decorator makes a route of the function below it."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.routes: list[Route] = []

    def get(
        self,
        path: str,
        verb: Verb | None = None,
        *,
        raises: tuple[type[RuntimedError], ...] = (),
        is_open: bool = False,
    ) -> Decorator:
        """Answer GET and HEAD; without a token if `is_open`."""
        return self._route(hdrs.METH_GET, path, verb, raises, is_open=is_open)

    def post(self, path: str, verb: Verb | None = None, *, raises: tuple[type[RuntimedError], ...] = ()) -> Decorator:
        """Answer POST."""
        return self._route(hdrs.METH_POST, path, verb, raises)

    def delete(
        self, path: str, verb: Verb | None = None, *, raises: tuple[type[RuntimedError], ...] = ()
    ) -> Decorator:
        """Answer DELETE."""
        return self._route(hdrs.METH_DELETE, path, verb, raises)

    def _route(
        self,
        method: str,
        path: str,
        verb: Verb | None,
        raises: tuple[type[RuntimedError], ...],
        *,
        is_open: bool = False,
    ) -> Decorator:
        def add(handler: Handler) -> Handler:
            self.routes.append(attrs.evolve(_inspect(method, path, handler, verb, raises), is_open=is_open))
            return handler

        return add


def _inspect(
    method: str, path: str, handler: Handler, verb: Verb | None, raises: tuple[type[RuntimedError], ...]
) -> Route:
    hints = get_type_hints(handler, include_extras=True)
    services, in_path, in_query, body, key = [], [], [], None, None
    for parameter in inspect.signature(handler).parameters.values():
        name, kind = parameter.name, hints[parameter.name]
        required = parameter.default is parameter.empty
        if f"{{{name}}}" in path:
            in_path.append(Parameter(name, required=True))
        elif _plain(kind) is IdempotencyKey:
            key = name
        elif method == hdrs.METH_POST and _is_body(_plain(kind)):
            body = Body(name, _plain(kind), required)
        elif _is_query(kind):
            in_query.append(_in_query(name.removesuffix("_"), kind, required))
        else:
            services.append((name, kind))
    return Route(
        method,
        path,
        handler,
        verb,
        raises,
        hints["return"],
        tuple(services),
        tuple(in_path),
        tuple(in_query),
        body,
        key,
    )


def _is_body(kind: Any) -> bool:
    return attrs.has(kind) and kind is not Principal


def _plain(kind: Any) -> Any:
    """Return the type without Annotated and without None."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return _plain(next(inner for inner in get_args(kind) if inner is not type(None)))
    return kind


def _is_query(kind: Any) -> bool:
    plain = _plain(kind)
    return plain in {str, int, tuple[str, ...]} or get_origin(plain) is Literal


def _in_query(name: str, kind: Any, required: bool) -> Parameter:
    plain = _plain(kind)
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    return Parameter(name, required, _bounds(kind), choices, plain == tuple[str, ...])


def _bounds(kind: Any) -> Number | None:
    if _plain(kind) is not int:
        return None
    found = [extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Number)]
    return found[0] if found else Number()
