"""The Runtime itself."""

from typing import Annotated

from runtimed.core.runtime import Runtime
from runtimed.errors import LimitTooLarge
from runtimed.http.binder import Number, Routes
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import CheckResponse, DiagnosticsResponse, RuntimeEventsResponse, RuntimeResponse

routes = Routes("runtime")


@routes.get(paths.RUNTIME)
def get_runtime(runtime: Runtime) -> RuntimeResponse:
    """Who the Runtime is, how much it hosts, and its limits."""
    return RuntimeResponse(runtime.summary())


@routes.get(paths.RUNTIME_EVENTS, raises=(LimitTooLarge,))
async def list_runtime_events(
    runtime: Runtime,
    after: Annotated[int, Number()] = 0,
    limit: Annotated[int | None, Number(minimum=1, limit="max_event_batch_items")] = None,
) -> RuntimeEventsResponse:
    """What happened to the Runtime and to its Workers, by id: the events behind the one with the id `after`."""
    newest = runtime.newest_runtime_event
    found = tuple(await runtime.runtime_events(after, limit))
    last = found[-1].id if found else after
    has_more = bool(found) and last < newest
    if has_more:  # a full disk may have refused all that came behind
        has_more = bool(await runtime.runtime_events(last, 1))
    return RuntimeEventsResponse(found, last, has_more)


@routes.get(paths.RUNTIME_CHECK)
async def check_store(runtime: Runtime) -> CheckResponse:
    """Read all that is stored, and tell what is damaged, missing or not private; it may take a while."""
    return CheckResponse(await runtime.check())


@routes.get(paths.DIAGNOSTICS)
async def list_diagnostics(runtime: Runtime) -> DiagnosticsResponse:
    """What the Runtime has had to remark, oldest first."""
    return DiagnosticsResponse(runtime.diagnostics())
