"""A service that passes the requests of one Worker on to upstreams."""

import contextlib
import json
import secrets
from collections.abc import Iterator

from aiohttp import web

from runtimed.execution.confinement.secrets import Secrets, SecretUnavailable
from runtimed.gateways.credentials import Credentials, RealHeaders
from runtimed.gateways.exchange import Exchange, Limits, Route
from runtimed.gateways.http_service import HttpService
from runtimed.gateways.refused import Refused
from runtimed.gateways.request_paths import InvalidPath, RequestPath
from runtimed.gateways.upstreams import Upstreams

CLIENT_LEFT = 499
KEY_BYTES = 32


def new_key() -> str:
    """Return a throwaway key."""
    return secrets.token_urlsafe(KEY_BYTES)


def request_path(request: web.BaseRequest) -> RequestPath:
    """Return the path of a request.

    Raises:
        Refused: The path could mean different things to different readers.
    """
    try:
        return RequestPath.parse(request.raw_path)
    except InvalidPath as error:
        raise Refused(400, "invalid_path", str(error)) from None


class ForwardingService(HttpService):
    """Checks the requests of one Worker, and passes them on to where a subclass routes them.

    Args:
        name: The name in counts, logs and messages.
        credentials: The headers by which the Worker shows its key.
        limits: What one exchange may take.
        secrets: Gives the real values.
        upstreams: What all gateways share.
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        limits: Limits,
        secrets: Secrets,
        upstreams: Upstreams,
    ) -> None:
        super().__init__()
        self.name = name
        self._credentials = credentials
        self._limits = limits
        self._secrets = secrets
        self._upstreams = upstreams
        self._active = 0

    @property
    def key(self) -> str:
        """The throwaway key that the Worker shows."""
        return self._credentials.key

    def route(self, request: web.BaseRequest) -> Route:
        """Return where a request goes.

        Raises:
            Refused: The Worker may not send this request.
        """
        raise NotImplementedError

    def refusal(self, refused: Refused) -> web.Response:
        """Return the gateway's own response."""
        text = json.dumps({"error": {"code": refused.code, "message": refused.message}})
        headers = {"Content-Type": "application/json", **refused.headers}
        return web.Response(status=refused.status, body=text.encode(), headers=headers)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = Exchange(request, self._limits)
        status: int | None = None
        try:
            response = await self._answer(request, exchange)
            status = response.status
        except Refused as refused:
            response = exchange.cut() or self.refusal(refused)
            status = response.status
            if refused.status >= 500 and request.transport is not None:
                self._upstreams.warn(self.name, refused.reason)
        finally:
            self._upstreams.requests[self.name, status or exchange.status or CLIENT_LEFT] += 1
        return response

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if not self._credentials.admits(request.headers):
            raise Refused(401, "unauthorized", self._expected_key(), {"WWW-Authenticate": "Bearer"})
        if "websocket" in request.headers.get("Upgrade", "").lower():
            raise Refused(
                426,
                "websocket_refused",
                "the gateway carries HTTP only, not WebSocket: send the request over HTTP",
                {"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
            )
        route = self.route(request)
        with self._slot():
            return await exchange.run(self._upstreams.session, route, await self._real_headers(route))

    def _expected_key(self) -> str:
        names = " or ".join(sorted(name.title() for name in self._credentials.shown))
        return f"expected the key of this Worker for the gateway {self.name} in the header {names}"

    async def _real_headers(self, route: Route) -> RealHeaders:
        try:
            return await route.credentials.real(self._secrets)
        except SecretUnavailable as error:
            message = f"the daemon cannot read the secret of the gateway {self.name}: its log has the reason"
            raise Refused(503, "secret_unavailable", message, reason=str(error)) from None

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        with self._upstreams.slot() as is_free:
            if not is_free:
                raise _too_many(f"{self._upstreams.max_requests} of all Workers")
            if self._active >= self._limits.max_requests:
                raise _too_many(f"{self._limits.max_requests} of a Worker through the gateway {self.name}")
            self._active += 1
            try:
                yield
            finally:
                self._active -= 1


def _too_many(limit: str) -> Refused:
    message = f"too many requests at the same time, at most {limit}"
    return Refused(429, "too_many_requests", message, {"Retry-After": "1"})
