"""Config bundles."""

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
from runtimed.http.binder import Routes
from runtimed.model.worker import BundleReference
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import AvailabilityResponse, BundlesResponse, PutBundleRequest

routes = Routes("config bundles")


@routes.get(paths.BUNDLES)
def list_bundles(runtime: Runtime) -> BundlesResponse:
    """Every bundle held, by id."""
    return BundlesResponse(runtime.bundles())


@routes.post(
    paths.BUNDLES,
    raises=(
        InvalidRequest,
        ConfigBundleDigestMismatch,
        InvalidProfileSelector,
        UnsupportedConfigDeclaration,
        RuntimeStopped,
        StoreFull,
    ),
)
async def put_bundle(runtime: Runtime, body: PutBundleRequest) -> AvailabilityResponse:
    """Keep a bundle; one with the same id is replaced."""
    return AvailabilityResponse(await runtime.put_bundle(body.bundle))


@routes.get(paths.BUNDLE_AVAILABILITY, raises=(InvalidRequest, ConfigBundleMissing, ConfigBundleDigestMismatch))
def get_bundle_availability(runtime: Runtime, bundle_id: str, digest: str) -> AvailabilityResponse:
    """Whether exactly this version of a bundle is held."""
    return AvailabilityResponse(runtime.bundle_availability(BundleReference(bundle_id, digest)))
