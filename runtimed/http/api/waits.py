"""The route that waits for a Worker."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar, get_args

from aiohttp import web

from runtimed.core.runtime import Runtime
from runtimed.errors import (
    CursorExpired,
    CursorMalformed,
    CursorUnknownOrExpired,
    InvalidWorkerId,
    Unavailable,
    UpstreamClosed,
    WaitImpossible,
    WaitTimeout,
    WorkerDeleted,
    WorkerNotFound,
)
from runtimed.feed import Waits
from runtimed.http.errors import InvalidQuery
from runtimed.http.web.binding import Routes
from runtimed.http.web.query import Number
from runtimed.http.web.sessions import SESSION
from runtimed.model.identity import EventCursor, cursor_sequence
from runtimed.model.principal import Principal
from runtimed.model.waiting import WaitCondition
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import WaitResponse

CONDITIONS: tuple[WaitCondition, ...] = get_args(WaitCondition)

TIMEOUT_S = 30
MAX_TIMEOUT_S = 600

LEFT_CHECK_S = 1.0
"""How often a wait looks whether its client is still connected, in seconds."""

T = TypeVar("T")

routes = Routes("waits")


@routes.get(
    paths.WORKER_WAIT,
    "wait",
    raises=(
        InvalidWorkerId,
        WorkerNotFound,
        CursorMalformed,
        CursorUnknownOrExpired,
        CursorExpired,
        WorkerDeleted,
        UpstreamClosed,
        WaitTimeout,
        WaitImpossible,
    ),
)
async def wait_for_worker(
    runtime: Runtime,
    waits: Waits,
    principal: Principal,
    request: web.BaseRequest,
    worker_id: str,
    for_: str,
    cursor: str | None = None,
    timeout_s: Annotated[int, Number(1, MAX_TIMEOUT_S)] = TIMEOUT_S,
) -> WaitResponse:
    """Wait until one of the conditions `for` holds, judged from the cursor on, or from now on without one."""
    wanted = _conditions(for_)
    ref = runtime.ref(worker_id)
    waiting = waits.wait(ref, wanted, _place(runtime, cursor), timeout_s, principal=principal)
    return WaitResponse(await _unless_left(request, waiting))


def _conditions(text: str) -> frozenset[WaitCondition]:
    named = text.split(",")
    wanted = frozenset(condition for condition in CONDITIONS if condition in named)
    if len(wanted) != len(set(named)):
        raise InvalidQuery(f"for: expected some of {', '.join(CONDITIONS)}, separated by commas")
    return wanted


def _place(runtime: Runtime, cursor: str | None) -> EventCursor | None:
    if cursor is None:
        return None
    sequence = cursor_sequence(cursor)
    if sequence is None:
        raise CursorMalformed
    return EventCursor(runtime.runtime_id, sequence)


async def _unless_left(request: web.BaseRequest, waiting: Coroutine[Any, Any, T]) -> T:
    """Return the outcome of a wait; give it up once the client has left or its token has ended."""
    session, task = request[SESSION], asyncio.get_running_loop().create_task(waiting)
    try:
        with session.calling(task.cancel):
            while not (await asyncio.wait({task}, timeout=LEFT_CHECK_S))[0]:
                if request.transport is None or request.transport.is_closing():
                    raise Unavailable("the client has left")
        session.check()
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
