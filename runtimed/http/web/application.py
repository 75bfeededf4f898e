"""The API as one request handler: guard, router, endpoint, and errors as responses."""

from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from runtimed.core.services.quotas import Quotas
from runtimed.errors import Forbidden, RuntimedError
from runtimed.http.web.audit import Audited, AuditTrail, remote_of
from runtimed.http.web.guard import Guard
from runtimed.http.web.responses import JsonResponse, error_response
from runtimed.http.web.router import Match, Router
from runtimed.http.web.sessions import Sessions
from runtimed.model.principal import Principal


class ApiApplication:
    """Answers every request of the API, from any server."""

    def __init__(self, router: Router, guard: Guard, quotas: Quotas, audit: AuditTrail) -> None:
        self.router = router
        self.guard = guard
        self.quotas = quotas
        self.audit = audit
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
            on_admitted: Called once the guard has admitted the request.
        """
        remote = remote_of(request.transport.get_extra_info("peername") if request.transport is not None else None)
        try:
            principal = await self.guard.admit(request)
        except RuntimedError as error:
            found = self.router.find(request.method, path)
            self.audit.refused(found.endpoint.route if found is not None else None, error, remote)
            refusal = error_response(error).to_aiohttp()
            refusal.force_close()
            return refusal
        if on_admitted is not None:
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
            returned = await self._call(request, principal, match)
        except BaseException as error:
            self.audit.answered(audited, error=error)
            raise
        self.audit.answered(audited, returned=returned)
        return returned if isinstance(returned, web.StreamResponse) else JsonResponse.of(returned).to_aiohttp()

    async def _call(self, request: web.BaseRequest, principal: Principal, match: Match) -> Any:
        self._count(principal)
        refusal = match.endpoint.refusal(principal)
        if refusal is not None:
            raise Forbidden(refusal)
        return await match.endpoint.handle(request, principal, match.in_path)

    def _count(self, principal: Principal) -> None:
        """Count a request of a tenant. Raises RateLimited if there are too many."""
        if principal.tenant is not None:
            self.quotas.take_request(principal.tenant)


def _changes_protocol(request: web.BaseRequest) -> bool:
    """Return whether the bytes after the request are no HTTP request."""
    return request.method == hdrs.METH_CONNECT or request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
