"""The Runtime itself."""

from runtimed.core.runtime import Runtime
from runtimed.http.binder import Routes
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import RuntimeResponse

routes = Routes("runtime")


@routes.get(paths.RUNTIME)
def get_runtime(runtime: Runtime) -> RuntimeResponse:
    """Who the Runtime is, how much it hosts, and its limits."""
    return RuntimeResponse(runtime.summary())
