"""What of a request goes into the audit log."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any
from urllib.parse import quote

import attrs
from aiohttp import hdrs, web

from runtimed.audit import AuditLog, AuditRecord
from runtimed.errors import Internal, RuntimedError
from runtimed.http.errors import Unauthorized, status_of
from runtimed.http.web.binding import Route
from runtimed.http.web.responses import BackupResponse
from runtimed.model.principal import Principal, Verb
from runtimed.wire import routes as paths
from runtimed.wire.request_id import current_request_id

MAX_REFUSALS = 10
"""How many requests are recorded in REFUSAL_WINDOW_S of those that the guard refused, and of those that a token was
refused for its rights or its rate, for each token. Others are counted in one line."""

REFUSAL_WINDOW_S = 1.0

LEAVING: frozenset[Verb] = frozenset({"backup", "join"})
"""What is recorded although its route is a GET, and before it begins: all that is stored leaves the Runtime, or a
host joins it."""

FORBIDDEN, RATE_LIMITED = 403, 429

BEGUN = "begun"
"""The outcome of a request that may take long, before it is carried out."""

CUT = "cut"
"""The outcome of a request whose answer was not sent to its end."""

UNANSWERED = "unanswered"
"""The outcome of a request that was cut off by the end of the daemon."""

UNIX = "unix"
MAPPED = "::ffff:"
"""The prefix of an IPv4 address on a dual-stack socket."""

MADE: Mapping[str, Callable[[Any], str]] = {
    paths.WORKERS: attrgetter("worker.worker_id"),
    paths.BUNDLES: attrgetter("availability.reference.id"),
    paths.TOKENS: attrgetter("token.name"),
}
"""How the answer of a route that makes something names it."""


@attrs.frozen
class Audited:
    """A request that the guard has admitted.

    Attributes:
        route: What it has reached.
        in_path: The values of the parameters in its path.
        principal: The client.
        remote: The peer, as `remote_of` gives it.
    """

    route: Route
    in_path: Mapping[str, str]
    principal: Principal
    remote: str

    def ended(self, error: BaseException | None, returned: Any) -> AuditRecord:
        """Return the record of the request, with the error that ended it or with what its handler returned."""
        made = MADE.get(self.route.path)
        name = made(returned) if error is None and made is not None else None
        return self.record(_outcome_of(error, returned), name)

    def record(self, outcome: str, made: str | None = None) -> AuditRecord:
        """Return the record of the request with an outcome, and with the name of what it made."""
        target = self.route.path.format(**{name: _encoded(value) for name, value in self.in_path.items()})
        return AuditRecord(
            _now(),
            outcome,
            self.principal.name,
            self.principal.role,
            self.route.verb,
            target if made is None else f"{target}/{_encoded(made)}",
            current_request_id(),
            self.remote,
        )


class AuditTrail:
    """Records requests that change something, and those that the guard refuses.

    Args:
        audit_log: Where they are recorded, or None for nowhere.
    """

    def __init__(self, audit_log: AuditLog | None) -> None:
        self._log = audit_log
        self._refusals: Counter[Principal | None] = Counter()
        self._window: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Record how many refusals were left out. May be called again."""
        if self._window is not None:
            self._window.cancel()
            self._end_window()

    def begun(self, request: Audited) -> None:
        """Record an admitted request before it is carried out, if that may take long: the daemon may be killed."""
        if self._log is not None and request.route.verb in LEAVING:
            self._log.record(request.record(BEGUN))

    def answered(self, request: Audited, *, error: BaseException | None = None, returned: Any = None) -> None:
        """Record an admitted request, once its outcome is known, if it changes something or is forbidden.

        Args:
            request: The request.
            error: Why it failed, or None.
            returned: What its handler returned.
        """
        is_told = is_audited(request.route) or _has_status(error, FORBIDDEN)
        if self._log is None or not self._log.is_on or not is_told:
            return
        if not _has_status(error, FORBIDDEN, RATE_LIMITED) or self._has_line(request.principal):
            self._log.record(request.ended(error, returned))

    def refused(self, route: Route | None, error: RuntimedError, remote: str) -> None:
        """Record a request that the guard refused, if it failed to authenticate or would have changed something.

        Args:
            route: What it would have reached, if anything.
            error: Why it was refused.
            remote: The peer, as `remote_of` gives it.
        """
        is_told = isinstance(error, Unauthorized) or (route is not None and is_audited(route))
        if self._log is None or not self._log.is_on or not is_told:
            return
        if self._has_line(None):
            verb, target = (route.verb, route.path) if route is not None else (None, None)
            outcome, request_id = _outcome_of(error, None), current_request_id()
            self._log.record(AuditRecord(_now(), outcome, None, None, verb, target, request_id, remote))

    def _has_line(self, principal: Principal | None) -> bool:
        """Count one more refusal of a client, or of nobody. Returns whether it has a line of its own."""
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(REFUSAL_WINDOW_S, self._end_window)
        self._refusals[principal] += 1
        return self._refusals[principal] <= MAX_REFUSALS

    def _end_window(self) -> None:
        refusals, self._refusals, self._window = self._refusals, Counter(), None
        for principal, count in refusals.items():
            if count > MAX_REFUSALS and self._log is not None:
                name, role = (None, None) if principal is None else (principal.name, principal.role)
                self._log.record(AuditRecord(_now(), f"omitted {count - MAX_REFUSALS}", name, role))


def is_audited(route: Route) -> bool:
    """Return whether every request to a route is recorded."""
    return route.method != hdrs.METH_GET or route.verb in LEAVING


def remote_of(peer: object) -> str:
    """Return the address in a peer name of a socket, without its port; `unix` for a Unix socket."""
    return str(peer[0]).removeprefix(MAPPED) if isinstance(peer, tuple) else UNIX


def _encoded(value: str) -> str:
    """Return a part of a path in the form that it has in a request, whatever it holds."""
    return quote(value, safe="", errors="surrogatepass")


def _has_status(error: BaseException | None, *statuses: int) -> bool:
    return isinstance(error, RuntimedError) and status_of(type(error)) in statuses


def _outcome_of(error: BaseException | None, returned: Any) -> str:
    if isinstance(error, asyncio.CancelledError):
        return UNANSWERED
    if error is not None:
        known = error if isinstance(error, RuntimedError) else Internal()
        return f"{status_of(type(known))} {known.code}"
    if isinstance(returned, BackupResponse) and returned.is_cut:
        return CUT
    return str(returned.status if isinstance(returned, web.StreamResponse) else 204 if returned is None else 200)


def _now() -> int:
    return time.time_ns() // 1_000_000
