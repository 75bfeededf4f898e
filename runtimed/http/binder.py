"""From a typed function to a route: its signature says what is read from path, query and body, and what is answered.

A parameter is bound by its name and annotation. A name of the path is read from there. An attrs class of a POST is
the body, optional where it has a default. From the query come `str`, a `Literal` of what is accepted, `int` with
bounds by `Number`, and `tuple[str, ...]`, which may be repeated. Anything else is a service of the application.
"""

import asyncio
import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from aiohttp import hdrs, web
from multidict import MultiMapping

from runtimed.core.limits import Limits
from runtimed.errors import (
    InvalidJson,
    InvalidQuery,
    InvalidRequest,
    PayloadTooLarge,
    RuntimedError,
    UnsupportedMediaType,
)
from runtimed.http.responses import Answer
from runtimed.wire.converter import decode

MAX_NUMBER = 10**15 - 1
NAME = re.compile(r"[a-z_]{1,32}", re.ASCII)
"""What may be repeated of an unknown parameter: no more than a name, for somebody may have put a token there."""

NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
JSON_TYPE = re.compile(r"application/json(\s*;\s*charset\s*=\s*\"?utf-8\"?)?\s*", re.IGNORECASE)
BODY_TIMEOUT_S = 60.0
MAX_INLINE_BYTES = 2**16
"""A larger body is parsed in a thread."""

Query = MultiMapping[str]

Handler = Callable[..., Any]
"""A coroutine function, or a plain one where there is nothing to wait for."""


@attrs.frozen
class Number:
    """Bounds of a whole number in a query; `limit` names the limit of the Runtime that is told as the upper one, and
    is left to the Runtime to keep."""

    minimum: int = 0
    maximum: int = MAX_NUMBER
    limit: str = ""


@attrs.frozen
class Parameter:
    """One parameter in the path or the query: a text, one of `choices`, a number in `bounds`, or `repeated` texts."""

    name: str
    required: bool
    bounds: Number | None = None
    choices: tuple[str, ...] = ()
    repeated: bool = False
    told_maximum: int | None = None

    def limited(self, limits: Limits) -> "Parameter":
        """This parameter in a Runtime with these limits."""
        if self.bounds is None or not self.bounds.limit:
            return self
        return attrs.evolve(self, told_maximum=getattr(limits, self.bounds.limit))

    def read(self, text: str) -> str | int:
        """The value in a query. Raises InvalidQuery."""
        if self.choices and text not in self.choices:
            raise InvalidQuery(f"{self.name}: expected one of {', '.join(self.choices)}")
        if self.bounds is None:
            return text
        number = int(text) if NUMBER.fullmatch(text) else -1
        if not self.bounds.minimum <= number <= self.bounds.maximum:
            bounds = f"{self.bounds.minimum} to {self.told_maximum or self.bounds.maximum}"
            raise InvalidQuery(f"{self.name}: expected a whole number, {bounds}")
        return number


@attrs.frozen
class Body:
    """The parameter that takes the body."""

    name: str
    kind: type
    required: bool

    def read(self, data: bytes) -> Any:
        """The value of a body. Raises InvalidJson."""
        return decode(data, self.kind) if data or self.required else None


@attrs.frozen
class Route:
    """A typed function under a method and a path; `raises` are the errors that it adds to those of every route."""

    method: str
    path: str
    handler: Handler
    raises: tuple[type[RuntimedError], ...]
    answer: Any
    services: tuple[tuple[str, type], ...]
    in_path: tuple[Parameter, ...]
    in_query: tuple[Parameter, ...]
    body: Body | None


class Routes:
    """Collects the routes of one noun."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.routes: list[Route] = []

    def get(self, path: str, *, raises: tuple[type[RuntimedError], ...] = ()) -> Callable[[Handler], Handler]:
        """The decorated function answers GET."""
        return self._route(hdrs.METH_GET, path, raises)

    def post(self, path: str, *, raises: tuple[type[RuntimedError], ...] = ()) -> Callable[[Handler], Handler]:
        """The decorated function answers POST."""
        return self._route(hdrs.METH_POST, path, raises)

    def delete(self, path: str, *, raises: tuple[type[RuntimedError], ...] = ()) -> Callable[[Handler], Handler]:
        """The decorated function answers DELETE."""
        return self._route(hdrs.METH_DELETE, path, raises)

    def _route(self, method: str, path: str, raises: tuple[type[RuntimedError], ...]) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.routes.append(_inspect(method, path, handler, raises))
            return handler

        return add


class Bound:
    """A route with its services: reads its arguments from a request and calls it.

    `waits` says that its function is a coroutine function, `bare` that it sees nothing of aiohttp: no request, no
    response. Routes that share `parsing` parse one large body at a time.
    """

    def __init__(
        self,
        route: Route,
        services: Mapping[type, Any],
        limits: Limits,
        max_body_bytes: int,
        parsing: asyncio.Lock | None = None,
    ) -> None:
        self.route = route
        self.body = route.body
        self._parsing = parsing or asyncio.Lock()
        self.wants_body = route.body is not None and route.body.required
        self.max_body_bytes = max_body_bytes
        self.waits = inspect.iscoroutinefunction(route.handler)
        self._given = {name: services[kind] for name, kind in route.services if kind is not web.Request}
        self._wants_request = [name for name, kind in route.services if kind is web.Request]
        self._queries = {parameter.name: parameter.limited(limits) for parameter in route.in_query}
        answers_itself = isinstance(route.answer, type) and issubclass(route.answer, web.StreamResponse)
        self.bare = not self._wants_request and not answers_itself

    def arguments(self, in_path: Mapping[str, str], query: Query) -> dict[str, Any]:
        """All arguments but the body and the request. Raises InvalidQuery."""
        arguments = {**self._given, **in_path}
        if query or self._queries:
            arguments.update(_read_query(query, self._queries))
        return arguments

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """As aiohttp calls it."""
        arguments = self.arguments(request.match_info, request.query)
        for name in self._wants_request:
            arguments[name] = request
        if self.body is not None:
            data = await _read_body(request, self.body, self.max_body_bytes)
            arguments[self.body.name] = await self._parse(self.body, data)
        answer = self.route.handler(**arguments)
        if self.waits:
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else Answer.of(answer).response()

    async def _parse(self, body: Body, data: bytes) -> Any:
        """The value of a body; a large one is parsed in a thread, so that other requests are answered meanwhile.

        One at a time: a pass over a body may hold the interpreter for 0.2 s, and several threads would do so in turn.
        The lock is released when the thread has ended, also where the request was cancelled before.
        """
        if len(data) <= MAX_INLINE_BYTES:
            return body.read(data)
        await self._parsing.acquire()
        try:
            parsed = asyncio.get_running_loop().run_in_executor(None, body.read, data)
        except BaseException:
            self._parsing.release()
            raise
        parsed.add_done_callback(lambda _: self._parsing.release())
        return await asyncio.shield(parsed)


def is_json(media_type: str) -> bool:
    """Whether a Content-Type says JSON, in UTF-8 where it says that much."""
    return media_type == "application/json" or JSON_TYPE.fullmatch(media_type) is not None


async def expect_nothing(_request: web.Request) -> None:
    """Send no `100 Continue` yet: a route sends it when it reads the body, after the guard has let the request in."""


def _inspect(method: str, path: str, handler: Handler, raises: tuple[type[RuntimedError], ...]) -> Route:
    hints = get_type_hints(handler, include_extras=True)
    services, in_path, in_query, body = [], [], [], None
    for parameter in inspect.signature(handler).parameters.values():
        name, kind = parameter.name, hints[parameter.name]
        required = parameter.default is parameter.empty
        if f"{{{name}}}" in path:
            in_path.append(Parameter(name, required=True))
        elif method == hdrs.METH_POST and attrs.has(_plain(kind)):
            body = Body(name, _plain(kind), required)
        elif _is_query(kind):
            in_query.append(_in_query(name, kind, required))
        else:
            services.append((name, kind))
    return Route(
        method, path, handler, raises, hints["return"], tuple(services), tuple(in_path), tuple(in_query), body
    )


def _plain(kind: Any) -> Any:
    """The type without Annotated and without None."""
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


def _read_query(query: Query, known: Mapping[str, Parameter]) -> dict[str, Any]:
    for name in query:
        if name not in known:
            accepted = ", ".join(known) or "none"
            shown = f"{name}: " if NAME.fullmatch(name) else ""
            raise InvalidQuery(f"{shown}unknown query parameter; accepted: {accepted}")
    for parameter in known.values():
        if len(query.getall(parameter.name, [])) > 1 and not parameter.repeated:
            raise InvalidQuery(f"{parameter.name}: expected once")
        if parameter.required and parameter.name not in query:
            raise InvalidQuery(f"{parameter.name}: required, but missing")
    return {
        name: tuple(query.getall(name)) if known[name].repeated else known[name].read(query[name]) for name in query
    }


async def _read_body(request: web.Request, body: Body, max_bytes: int) -> bytes:
    if hdrs.CONTENT_ENCODING in request.headers:
        raise UnsupportedMediaType("Content-Encoding: expected none")
    if (request.content_length or 0) > max_bytes:
        raise PayloadTooLarge(max_bytes)
    if request.can_read_body or body.required:
        media_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        if not is_json(media_type):
            raise UnsupportedMediaType("Content-Type: expected application/json")
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await _read(request, max_bytes)


async def _read(request: web.Request, max_bytes: int) -> bytes:
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while chunk := await request.content.readany():
                size += len(chunk)
                if size > max_bytes:
                    raise PayloadTooLarge(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise InvalidRequest(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} seconds") from None
    except (web.RequestPayloadError, ConnectionError):
        raise InvalidJson("the body broke off") from None
    return b"".join(chunks)
