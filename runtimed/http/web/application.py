"""The API as one request handler: guard, router, endpoint, and errors as responses."""

from collections.abc import Callable

from aiohttp import hdrs, web

from runtimed.errors import RuntimedError
from runtimed.http.web.guard import Guard
from runtimed.http.web.responses import error_response
from runtimed.http.web.router import Router


class ApiApplication:
    """Answers every request of the API, from any server."""

    def __init__(self, router: Router, guard: Guard) -> None:
        self.router = router
        self.guard = guard

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
        try:
            match = self.router.resolve(request.method, path)
            response = await match.endpoint.handle(request, principal, match.in_path)
        except Exception as error:  # noqa: BLE001 every error becomes a response here
            response = error_response(error).to_aiohttp()
        if _changes_protocol(request) and not isinstance(response, web.WebSocketResponse):
            response.force_close()
        return response


def _changes_protocol(request: web.BaseRequest) -> bool:
    """Return whether the bytes after the request are no HTTP request."""
    return request.method == hdrs.METH_CONNECT or request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
