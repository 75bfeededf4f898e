"""Routes of the Runtime itself."""

from typing import Annotated

from runtimed.core.runtime import Runtime
from runtimed.errors import LimitTooLarge, RuntimeStopped
from runtimed.http.web.binding import Routes
from runtimed.http.web.query import Number
from runtimed.model.principal import Principal
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import (
    CheckResponse,
    DiagnosticsResponse,
    DrainResponse,
    RuntimeEventsResponse,
    RuntimeResponse,
    SandboxResponse,
)

routes = Routes("runtime")


@routes.get(paths.RUNTIME, "read")
def get_runtime(runtime: Runtime, principal: Principal) -> RuntimeResponse:
    """Get the identity and the limits of the Runtime, and the counts of what the token sees."""
    return RuntimeResponse(runtime.summary(principal=principal))


@routes.get(paths.RUNTIME_EVENTS, "read", raises=(LimitTooLarge,))
async def list_runtime_events(
    runtime: Runtime,
    principal: Principal,
    after: Annotated[int, Number()] = 0,
    limit: Annotated[int | None, Number(minimum=1, limit="max_event_batch_items")] = None,
) -> RuntimeEventsResponse:
    """List the events of the Runtime and of its Workers' lifecycle whose id is greater than `after`."""
    newest = runtime.newest_runtime_event
    found = tuple(await runtime.runtime_events(after, limit, principal=principal))
    last = found[-1].id if found else after
    has_more = bool(found) and last < newest
    if has_more:  # all events after this one may be of Workers that are not seen, or a full disk has refused them
        has_more = bool(await runtime.runtime_events(last, 1, principal=principal))
    return RuntimeEventsResponse(found, last, has_more)


@routes.get(paths.RUNTIME_CHECK, "check")
async def check_store(runtime: Runtime, principal: Principal) -> CheckResponse:
    """Read the whole store, and report what is damaged, missing or readable by other users. This may take a while."""
    return CheckResponse(await runtime.check(principal=principal))


@routes.post(paths.RUNTIME_DRAIN, "drain", raises=(RuntimeStopped,))
def drain_runtime(runtime: Runtime, principal: Principal) -> DrainResponse:
    """Take no new Workers, inputs and restores, and end the daemon once no run is left or `drain_s` are over."""
    return DrainResponse(runtime.drain(principal=principal))


@routes.get(paths.RUNTIME_SANDBOX, "read")
def get_sandbox(runtime: Runtime) -> SandboxResponse:
    """Get how Workers are confined unless their profile says otherwise, and which mechanisms work on this host."""
    return SandboxResponse(runtime.sandbox())


@routes.get(paths.DIAGNOSTICS, "read")
async def list_diagnostics(runtime: Runtime, principal: Principal) -> DiagnosticsResponse:
    """List the diagnostics of the Runtime, oldest first."""
    return DiagnosticsResponse(runtime.diagnostics(principal=principal))
