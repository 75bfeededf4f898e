"""The observation feed, of one Worker and of all: the routes."""

from aiohttp import web

from runtimed.core.runtime import Runtime
from runtimed.errors import InvalidRequest, InvalidWorkerId, WorkerNotFound
from runtimed.feed import Selection
from runtimed.http.binder import Routes
from runtimed.http.sockets import serve_socket
from runtimed.http.streams import Streams, Wish
from runtimed.wire import routes as paths

HEARTBEAT_S = 20.0

routes = Routes("feed")


@routes.get(paths.WORKER_FEED, raises=(InvalidWorkerId, InvalidRequest, WorkerNotFound))
async def observe_worker(
    runtime: Runtime, streams: Streams, request: web.Request, worker_id: str, cursor: str | None = None
) -> web.WebSocketResponse:
    """Observe a Worker over a WebSocket: a snapshot, then every event behind the cursor, then each as it happens."""
    ref = runtime.ref(worker_id)
    runtime.worker(ref)
    return await serve_socket(streams, request, Wish(ref, Selection(), cursor), None)
