"""What of a request goes into the audit log."""

import asyncio
import time
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import attrs
from aiohttp import hdrs, web

from runtimed.audit import AuditLog, AuditRecord
from runtimed.errors import Internal, RuntimedError
from runtimed.http.errors import Unauthorized, status_of
from runtimed.http.web.binding import Route
from runtimed.model.principal import Principal, Verb
from runtimed.wire import routes as paths
from runtimed.wire.request_id import current_request_id

MAX_REFUSALS = 10
"""How many requests that the guard refused are recorded in REFUSAL_WINDOW_S. Others are counted in one line."""

REFUSAL_WINDOW_S = 1.0

LEAVING: frozenset[Verb] = frozenset({"backup", "join"})
"""What is recorded although its route is a GET: all that is stored leaves the Runtime, or a host joins it."""

FORBIDDEN = 403
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

    def record(self, error: BaseException | None, returned: Any) -> AuditRecord:
        """Return the record of the request, with the error that ended it or with what its handler returned."""
        target, made = self.route.path.format(**self.in_path), MADE.get(self.route.path)
        if error is None and made is not None:
            target = f"{target}/{made(returned)}"
        return AuditRecord(
            _now(),
            _outcome_of(error, returned),
            self.principal.name,
            self.principal.role,
            self.route.verb,
            target,
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
        self._refusals = 0
        self._window: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Record how many refusals were left out. May be called again."""
        if self._window is not None:
            self._window.cancel()
            self._end_window()

    def answered(self, request: Audited, *, error: BaseException | None = None, returned: Any = None) -> None:
        """Record an admitted request, once its outcome is known, if it changes something or is forbidden.

        Args:
            request: The request.
            error: Why it failed, or None.
            returned: What its handler returned.
        """
        if self._log is not None and self._log.is_on and (is_audited(request.route) or _is_forbidden(error)):
            self._log.record(request.record(error, returned))

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
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(REFUSAL_WINDOW_S, self._end_window)
        self._refusals += 1
        if self._refusals <= MAX_REFUSALS:
            verb, target = (route.verb, route.path) if route is not None else (None, None)
            outcome, request_id = _outcome_of(error, None), current_request_id()
            self._log.record(AuditRecord(_now(), outcome, None, None, verb, target, request_id, remote))

    def _end_window(self) -> None:
        omitted, self._refusals, self._window = self._refusals - MAX_REFUSALS, 0, None
        if omitted > 0 and self._log is not None:
            self._log.record(AuditRecord(_now(), f"omitted {omitted}"))


def is_audited(route: Route) -> bool:
    """Return whether every request to a route is recorded."""
    return route.method != hdrs.METH_GET or route.verb in LEAVING


def remote_of(peer: object) -> str:
    """Return the address in a peer name of a socket, without its port; `unix` for a Unix socket."""
    return str(peer[0]).removeprefix(MAPPED) if isinstance(peer, tuple) else UNIX


def _is_forbidden(error: BaseException | None) -> bool:
    return isinstance(error, RuntimedError) and status_of(type(error)) == FORBIDDEN


def _outcome_of(error: BaseException | None, returned: Any) -> str:
    if isinstance(error, asyncio.CancelledError):
        return UNANSWERED
    if error is not None:
        known = error if isinstance(error, RuntimedError) else Internal()
        return f"{status_of(type(known))} {known.code}"
    return str(returned.status if isinstance(returned, web.StreamResponse) else 204 if returned is None else 200)


def _now() -> int:
    return time.time_ns() // 1_000_000
