"""The API as one request handler: guard, router, endpoint, and errors as responses."""

from collections.abc import Callable

from aiohttp import hdrs, web

from runtimed.core.services.quotas import Quotas
from runtimed.errors import Forbidden, RuntimedError
from runtimed.http.web.guard import Guard
from runtimed.http.web.responses import error_response
from runtimed.http.web.router import Router
from runtimed.http.web.sessions import Sessions
from runtimed.model.principal import Principal


class ApiApplication:
    """Answers every request of the API, from any server."""

    def __init__(self, router: Router, guard: Guard, quotas: Quotas) -> None:
        self.router = router
        self.guard = guard
        self.quotas = quotas
        self._sessions = Sessions()

    def end_token(self, name: str) -> None:
        """End the feeds and waits of a token that is no longer valid, and admit no more requests with it."""
        self.guard.forget_admissions()
        self._sessions.end(name)

    async def close(self) -> None:
        """Admit no more requests. May be called again."""
        self.guard.close()

    async def handle(
        self, request: web.BaseRequest, path: str, on_admitted: Callable[[], None] | None = None
    ) -> web.StreamResponse:
        """Answer a request. Every error becomes a response.

        Args:
            request: The request.
            path: Its path below the place where the API is mounted, decoded as Router expects it.
            on_admitted: Called once the guard has admitted the request.
        """
        try:
            principal = await self.guard.admit(request)
        except RuntimedError as error:
            refusal = error_response(error).to_aiohttp()
            refusal.force_close()
            return refusal
        if on_admitted is not None:
            on_admitted()
        with self._sessions.serving(request, principal):
            try:
                response = await self._respond(request, principal, path)
            except Exception as error:  # noqa: BLE001 every error becomes a response here
                response = error_response(error).to_aiohttp()
        if _changes_protocol(request) and not isinstance(response, web.WebSocketResponse):
            response.force_close()
        return response

    async def _respond(self, request: web.BaseRequest, principal: Principal, path: str) -> web.StreamResponse:
        if principal.tenant is not None:
            self.quotas.take_request(principal.tenant)
        match = self.router.resolve(request.method, path)
        refusal = match.endpoint.refusal(principal)
        if refusal is not None:
            raise Forbidden(refusal)
        return await match.endpoint.handle(request, principal, match.in_path)


def _changes_protocol(request: web.BaseRequest) -> bool:
    """Return whether the bytes after the request are no HTTP request."""
    return request.method == hdrs.METH_CONNECT or request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
