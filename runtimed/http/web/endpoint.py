"""Routes that are ready to be called: each with its services, limits and body reader."""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from runtimed.core.limits import Limits
from runtimed.http.web.binding import Route
from runtimed.http.web.body import BodyReader
from runtimed.http.web.idempotency import IDEMPOTENCY_KEY, ScopedKey, read_key
from runtimed.http.web.query import Query, read_query
from runtimed.http.web.sessions import SESSION
from runtimed.model.principal import ADMIN, Principal


class Endpoint:
    """A route with its services: reads the arguments of its function from a request, and calls it.

    Args:
        route: The route.
        services: The services of the application, by type.
        limits: The limits of the Runtime.
        max_body_bytes: The largest body that is accepted, in bytes.
        parsing: A lock that is held while a large body is parsed. Endpoints that share it parse one at a time.

    Attributes:
        awaits: Whether the function is a coroutine function.
        needs_aiohttp: Whether the function takes a request of aiohttp or returns a response of it.
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
        self.body = BodyReader(route.body, max_body_bytes, parsing or asyncio.Lock()) if route.body else None
        self.awaits = inspect.iscoroutinefunction(route.handler)
        of_request = {Principal, web.BaseRequest}
        self._given = {name: services[kind] for name, kind in route.services if kind not in of_request}
        self._takes_principal = [name for name, kind in route.services if kind is Principal]
        self._takes_request = [name for name, kind in route.services if kind is web.BaseRequest]
        self._key = route.key
        self._query = {parameter.name: parameter.limited(limits) for parameter in route.in_query}
        returns_response = isinstance(route.returns, type) and issubclass(route.returns, web.StreamResponse)
        self.needs_aiohttp = bool(self._takes_request) or returns_response

    def refusal(self, principal: Principal) -> str | None:
        """Return why a client may not call this route, or None if it may."""
        return None if self.route.verb is None else principal.refusal(self.route.verb)

    def arguments(
        self, principal: Principal, in_path: Mapping[str, str], query: Query, headers: CIMultiDictProxy[str]
    ) -> dict[str, Any]:
        """Return all arguments but the body and the request; an idempotency key still lacks the body.

        Raises:
            InvalidQuery: The query is not what the route accepts.
            InvalidRequest: The idempotency key is malformed.
        """
        arguments = {**self._given, **in_path}
        if self._key is not None:
            given = headers.getall(IDEMPOTENCY_KEY, ())
            arguments[self._key] = self._scoped_key(given, principal, in_path) if given else None
        for name in self._takes_principal:
            arguments[name] = principal
        if query or self._query:
            arguments.update(read_query(query, self._query))
        return arguments

    def _scoped_key(self, given: Sequence[str], principal: Principal, in_path: Mapping[str, str]) -> ScopedKey:
        return read_key(given, *_scope(principal), self.route.method, self.route.path.format(**in_path))

    def call(self, arguments: Mapping[str, Any], body: bytes) -> Any:
        """Call the function with a body that is already here.

        Returns:
            What the function returns: a coroutine if the endpoint `awaits`.

        Raises:
            RuntimedError: The body is not accepted, or the function refuses.
        """
        if self.body is None:
            return self.route.handler(**arguments)
        bound = {**arguments, self.body.name: self.body.parse(body)}
        if self._key is not None and (key := arguments[self._key]) is not None:
            bound[self._key] = key.with_body(body)
        return self.route.handler(**bound)

    async def handle(self, request: web.BaseRequest, principal: Principal, in_path: Mapping[str, str]) -> Any:
        """Read the arguments from a request of aiohttp, call the function, and return what it returns.

        Raises:
            Unauthorized: The client's token ended before the body had arrived.
            RuntimedError: The request is not accepted, or the function refuses.
        """
        arguments = self.arguments(principal, in_path, request.query, request.headers)
        for name in self._takes_request:
            arguments[name] = request
        if self.body is not None:
            arguments[self.body.name], data = await self.body.read(request)
            if (session := request.get(SESSION)) is not None:
                session.check()  # a body may take long, and the token may have ended meanwhile
            if self._key is not None and (key := arguments[self._key]) is not None:
                arguments[self._key] = await asyncio.to_thread(key.with_body, data)
        returned = self.route.handler(**arguments)
        return await returned if self.awaits else returned


def _scope(principal: Principal) -> Sequence[str]:
    """Return whose idempotency keys those of a client are."""
    if principal.name == ADMIN.name:
        return ("admin",)  # version 0.1, which had no other token, stored keys under this name
    return ("token", principal.name) if principal.tenant is None else ("tenant", principal.tenant, principal.name)
