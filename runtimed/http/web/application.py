"""The API as one request handler: guard, router, endpoint, and errors as responses."""

import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from runtimed.core.services.quotas import Quotas
from runtimed.errors import Forbidden, RuntimedError
from runtimed.http.web.audit import Audited, AuditTrail, remote_of
from runtimed.http.web.guard import Guard, Headers
from runtimed.http.web.responses import JsonResponse, error_response
from runtimed.http.web.router import Match, Router
from runtimed.http.web.sessions import Sessions
from runtimed.metrics.requests import Requests
from runtimed.model.principal import Principal
from runtimed.wire.request_id import REQUEST_ID, RequestIds, RequestScope, given_request_id

log = logging.getLogger(__name__)


class ApiApplication:
    """Answers every request of the API, from any server."""

    def __init__(
        self, router: Router, guard: Guard, quotas: Quotas, audit: AuditTrail, requests: Requests | None = None
    ) -> None:
        """Make an application.

        Args:
            router: Finds the endpoint of a request.
            guard: Admits requests.
            quotas: What tenants may use.
            audit: Records requests.
            requests: Where requests are counted; made here if not given.
        """
        self.router = router
        self.guard = guard
        self.quotas = quotas
        self.audit = audit
        self.requests = requests or Requests()
        self.request_ids = RequestIds()
        self._sessions = Sessions()

    def end_token(self, name: str) -> None:
        """End the feeds and waits of a token that is no longer valid, and admit no more requests with it."""
        self.guard.forget_admissions()
        self._sessions.end(name)

    async def close(self) -> None:
        """Admit no more requests. May be called again."""
        self.guard.close()
        self.audit.close()

    async def handle(
        self, request: web.BaseRequest, path: str, on_admitted: Callable[[], None] | None = None
    ) -> web.StreamResponse:
        """Answer a request. Every error becomes a response.

        Args:
            request: The request.
            path: Its path below the place where the API is mounted, decoded as Router expects it.
            on_admitted: Called once the guard has admitted the request by its token.
        """
        with self.begin(request.headers) as scope:
            response = await self._respond(request, path, on_admitted)
        self._measure(request, path, response, scope)
        return _with_id(response, scope)

    def refuse(
        self, request: web.BaseRequest, error: RuntimedError, cause: BaseException | None
    ) -> web.StreamResponse:
        """Return the response to a request that could not be read, and close its connection.

        Args:
            request: What is known of the request.
            error: Why it is refused.
            cause: What is logged besides, if anything.
        """
        headers = CIMultiDictProxy(CIMultiDict(request.headers))  # those of a head that was refused are a dict
        with self.begin(headers) as scope:
            if cause is not None:
                log.error("a connection failed", exc_info=cause)
            response = error_response(error).to_aiohttp()
        response.force_close()
        self.requests.of(None, request.method).count(response.status)
        return _with_id(response, scope)

    def begin(self, headers: Headers) -> RequestScope:
        """Begin the scope of a request with these headers, in the current context."""
        return self.request_ids.begin(given_request_id(headers.getall(REQUEST_ID, ())))

    def _measure(
        self, request: web.BaseRequest, path: str, response: web.StreamResponse, scope: RequestScope
    ) -> None:
        requests = self.requests.of(self.router.template(request.method, path), request.method)
        if response.prepared:  # a feed, which lasts as long as its observer stays
            requests.count(response.status)
        else:
            requests.observe(response.status, time.monotonic() - scope.began_s)

    async def _respond(
        self, request: web.BaseRequest, path: str, on_admitted: Callable[[], None] | None
    ) -> web.StreamResponse:
        remote = remote_of(request.transport.get_extra_info("peername") if request.transport is not None else None)
        is_open = self.router.is_open(request.method, path)
        try:
            principal = self.guard.admit_anyone(request) if is_open else await self.guard.admit(request)
        except RuntimedError as error:
            found = self.router.find(request.method, path)
            self.audit.refused(found.endpoint.route if found is not None else None, error, remote)
            refusal = error_response(error).to_aiohttp()
            refusal.force_close()
            return refusal
        if on_admitted is not None and not is_open:
            on_admitted()
        with self._sessions.serving(request, principal):
            try:
                response = await self._answer(request, principal, path, remote)
            except Exception as error:  # noqa: BLE001 every error becomes a response here
                response = error_response(error).to_aiohttp()
        if _changes_protocol(request) and not isinstance(response, web.WebSocketResponse):
            response.force_close()
        return response

    async def _answer(
        self, request: web.BaseRequest, principal: Principal, path: str, remote: str
    ) -> web.StreamResponse:
        """Answer an admitted request, and record what came of it if it has reached a route."""
        try:
            match = self.router.resolve(request.method, path)
        except RuntimedError:
            self._count(principal)
            raise
        audited = Audited(match.endpoint.route, match.in_path, principal, remote)
        try:
            returned = await self._call(request, audited, match)
        except BaseException as error:
            self.audit.answered(audited, error=error)
            raise
        self.audit.answered(audited, returned=returned)
        return returned if isinstance(returned, web.StreamResponse) else JsonResponse.of(returned).to_aiohttp()

    async def _call(self, request: web.BaseRequest, audited: Audited, match: Match) -> Any:
        principal = audited.principal
        self._count(principal)
        refusal = match.endpoint.refusal(principal)
        if refusal is not None:
            raise Forbidden(refusal)
        self.audit.begun(audited)
        return await match.endpoint.handle(request, principal, match.in_path)

    def _count(self, principal: Principal) -> None:
        """Count a request of a tenant. Raises RateLimited if there are too many."""
        if principal.tenant is not None:
            self.quotas.take_request(principal.tenant)


def _with_id(response: web.StreamResponse, scope: RequestScope) -> web.StreamResponse:
    """Return a response with the id of its request. A stream that has begun has it already."""
    if not response.prepared:
        response.headers[REQUEST_ID] = scope.id
    return response


def _changes_protocol(request: web.BaseRequest) -> bool:
    """Return whether the bytes after the request are no HTTP request."""
    return request.method == hdrs.METH_CONNECT or request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
