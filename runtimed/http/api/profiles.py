"""Routes of profiles."""

from runtimed.core.runtime import Runtime
from runtimed.http.web.binding import Routes
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import ProfilesResponse

routes = Routes("profiles")


@routes.get(paths.PROFILES, "read")
async def list_profiles(runtime: Runtime) -> ProfilesResponse:
    """List the profiles, by selector, with what each needs and whether a Worker can be started with it now."""
    return ProfilesResponse(await runtime.profiles())
