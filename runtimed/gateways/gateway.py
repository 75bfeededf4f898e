"""A gateway: one HTTP upstream for one Worker, with the real key added on the way out."""

from aiohttp import web
from yarl import URL

from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import Gateway
from runtimed.gateways.credentials import Credentials
from runtimed.gateways.exchange import Limits, Route
from runtimed.gateways.forwarding import ForwardingService, new_key, request_path
from runtimed.gateways.gateway_rules import AllowRule, Upstream
from runtimed.gateways.refused import Refused
from runtimed.gateways.upstreams import Upstreams


class GatewayService(ForwardingService):
    """Passes the requests of one Worker on to one upstream, and its responses back.

    A request is passed on if it shows the throwaway key, and if its method and path are allowed. What was checked is
    what is sent: the path is decoded, checked and encoded again. Redirects are not followed. A `Location` below the
    upstream becomes one below the gateway, any other an absolute URL.

    Args:
        name: The name of the gateway in the configuration.
        gateway: Its configuration.
        secrets: Gives the real values.
        upstreams: What all gateways share.

    Raises:
        ValueError: The configuration is invalid.
    """

    def __init__(self, name: str, gateway: Gateway, secrets: Secrets, upstreams: Upstreams) -> None:
        credentials = Credentials.of(gateway.headers, new_key())
        super().__init__(name, credentials, _limits(gateway), secrets, upstreams)
        self._upstream = Upstream.parse(gateway.upstream)
        self._allow = tuple(AllowRule.parse(rule) for rule in gateway.allow)

    def route(self, request: web.BaseRequest) -> Route:
        target = request_path(request)
        if not any(rule.matches(request.method, target.path) for rule in self._allow):
            allowed = ", ".join(map(str, self._allow))
            message = f"{request.method} {target.path}: not allowed; the gateway {self.name} allows: {allowed}"
            raise Refused(403, "forbidden", message)
        url = URL(f"{self._upstream}{target.encoded}", encoded=True)
        return Route(url, self._credentials, self._locate)

    def _locate(self, location: URL) -> str:
        upstream = URL(f"{self._upstream}/", encoded=True)
        below = location.raw_path.removeprefix(self._upstream.base)
        is_below = location.raw_path.startswith(f"{self._upstream.base}/") or not below
        if location.origin() != upstream.origin() or not is_below:
            return str(location)
        return str(location.relative()).removeprefix(self._upstream.base) or "/"


def _limits(gateway: Gateway) -> Limits:
    return Limits(
        connect_timeout_s=gateway.connect_timeout_s,
        silence_timeout_s=gateway.silence_timeout_s,
        total_timeout_s=gateway.total_timeout_s,
        max_request_bytes=gateway.max_request_bytes,
        max_response_bytes=gateway.max_response_bytes,
        max_requests=gateway.max_requests,
    )
