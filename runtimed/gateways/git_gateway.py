"""A gateway for Git: fetch from the remotes that the policies of one Worker name, and push where they allow it."""

import re
from collections.abc import Sequence

import attrs
from aiohttp import web
from yarl import URL

from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import GitPolicy
from runtimed.gateways.credentials import Credentials
from runtimed.gateways.exchange import Limits, Route
from runtimed.gateways.forwarding import ForwardingService, new_key, request_path
from runtimed.gateways.gateway_rules import Origin
from runtimed.gateways.git_rules import KEY_HEADER, Remote, place
from runtimed.gateways.refused import Refused
from runtimed.gateways.request_paths import RequestPath
from runtimed.gateways.upstreams import Upstreams

NAME = "git"
FETCH, PUSH = "git-upload-pack", "git-receive-pack"
LIMITS = Limits(
    connect_timeout_s=10.0,
    silence_timeout_s=300.0,
    total_timeout_s=3_600.0,
    max_request_bytes=1 << 30,
    max_response_bytes=4 << 30,
    max_requests=16,
)

_REQUEST = re.compile(rf"/(https?)/([^/]+)(/.+?)/(info/refs|{FETCH}|{PUSH})")


class GitGatewayService(ForwardingService):
    """Passes Git's requests over "smart" HTTP on to the remotes of a Worker's policies.

    A remote `https://HOST/PATH` is reached as `/https/HOST/PATH` below the gateway; `git_environment` gives the
    configuration that makes Git go there. The real headers of a policy are set on the way out.

    Args:
        policies: The policies of the Worker. The first that matches a repository and allows the service counts.
        secrets: Gives the real values.
        upstreams: What all gateways share.
        limits: What one exchange may take.

    Raises:
        ValueError: A policy is invalid.
    """

    def __init__(
        self, policies: Sequence[GitPolicy], secrets: Secrets, upstreams: Upstreams, *, limits: Limits = LIMITS
    ) -> None:
        key = new_key()
        super().__init__(NAME, Credentials.of({}, key, key_header=KEY_HEADER), limits, secrets, upstreams)
        self._grants = [_Grant.of(policy, key) for policy in policies]

    def route(self, request: web.BaseRequest) -> Route:
        target = request_path(request)
        found = _REQUEST.fullmatch(target.path)
        service = _service(request.method, found[4], target.query) if found else None
        if found is None or service is None:
            raise Refused(403, "forbidden", f"{request.method} {target.path}: not a request of Git to fetch or push")
        origin, path = Origin(found[1], found[2].lower()), found[3]
        grant = self._grant(origin, path, service)
        sent = RequestPath(f"{path}/{found[4]}", target.query).encoded
        return Route(URL(f"{origin}{sent}", encoded=True), grant.credentials, self._locate)

    def refusal(self, refused: Refused) -> web.Response:
        # Git shows plain text, and would ask for a password after a 401.
        status = 403 if refused.status == 401 else refused.status
        return web.Response(status=status, text=f"runtimed: {refused.message}\n")

    def _grant(self, origin: Origin, path: str, service: str) -> "_Grant":
        grants = [grant for grant in self._grants if grant.matches(origin, path)]
        if not grants:
            allowed = ", ".join(str(remote) for grant in self._grants for remote in grant.remotes)
            raise Refused(403, "forbidden", f"{origin}{path}: this Worker may not use this remote, only: {allowed}")
        for grant in grants:
            if service == FETCH or grant.push:
                return grant
        raise Refused(403, "forbidden", f"{origin}{path}: this Worker may fetch from this remote, but not push to it")

    def _locate(self, location: URL) -> str:
        origin = Origin(location.scheme, location.raw_authority.lower())
        if any(origin == remote.origin for grant in self._grants for remote in grant.remotes):
            return f"{place(origin)}{location.relative()}"
        return str(location)


@attrs.frozen
class _Grant:
    remotes: Sequence[Remote]
    push: bool
    credentials: Credentials

    @classmethod
    def of(cls, policy: GitPolicy, key: str) -> "_Grant":
        named = {name.lower() for name in policy.headers}
        kept = frozenset({"authorization"} - named)
        credentials = Credentials.of(policy.headers, key, key_header=KEY_HEADER, kept=kept)
        return cls([Remote.parse(remote) for remote in policy.remotes], policy.push, credentials)

    def matches(self, origin: Origin, path: str) -> bool:
        return any(remote.matches(origin, path) for remote in self.remotes)


def _service(method: str, last: str, query: str) -> str | None:
    """Return the service that a request is for, or None if Git would not send it."""
    if last == "info/refs":
        name = query.removeprefix("service=")
        return name if method == "GET" and name != query and name in {FETCH, PUSH} else None
    return last if method == "POST" and not query else None
