"""Routes of config bundles."""

from runtimed.core.runtime import Runtime
from runtimed.errors import (
    ConfigBundleDigestMismatch,
    ConfigBundleMissing,
    InvalidProfileSelector,
    InvalidRequest,
    RuntimeStopped,
    StoreFull,
    UnsupportedConfigDeclaration,
)
from runtimed.http.web.binding import Routes
from runtimed.model.principal import Principal
from runtimed.model.worker import BundleReference
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import AvailabilityResponse, BundlesResponse, HostCheckResponse, PutBundleRequest

routes = Routes("config bundles")


@routes.get(paths.BUNDLES, "read")
def list_bundles(runtime: Runtime, principal: Principal) -> BundlesResponse:
    """List the config bundles that the token sees, by id."""
    return BundlesResponse(runtime.bundles(principal=principal))


@routes.post(
    paths.BUNDLES,
    "bundles",
    raises=(
        InvalidRequest,
        ConfigBundleDigestMismatch,
        InvalidProfileSelector,
        UnsupportedConfigDeclaration,
        RuntimeStopped,
        StoreFull,
    ),
)
async def put_bundle(runtime: Runtime, principal: Principal, body: PutBundleRequest) -> AvailabilityResponse:
    """Store a config bundle. It replaces one of the same tenant with the same id."""
    return AvailabilityResponse(await runtime.put_bundle(body.bundle, principal=principal))


@routes.get(
    paths.BUNDLE_AVAILABILITY, "read", raises=(InvalidRequest, ConfigBundleMissing, ConfigBundleDigestMismatch)
)
def get_bundle_availability(
    runtime: Runtime, principal: Principal, bundle_id: str, digest: str
) -> AvailabilityResponse:
    """Check that a config bundle is stored with this digest."""
    return AvailabilityResponse(runtime.bundle_availability(BundleReference(bundle_id, digest), principal=principal))


@routes.get(paths.BUNDLE_HOST_CHECK, "read", raises=(InvalidRequest, ConfigBundleMissing, ConfigBundleDigestMismatch))
async def check_bundle_on_host(
    runtime: Runtime, principal: Principal, bundle_id: str, digest: str
) -> HostCheckResponse:
    """Report what this host would do with each declaration of a config bundle. Nothing is created."""
    return HostCheckResponse(await runtime.check_bundle(BundleReference(bundle_id, digest), principal=principal))
