"""The config bundles that a Runtime holds."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.state import bundle_rules
from runtimed.core.state.change import Change
from runtimed.errors import InvalidRequest
from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary
from runtimed.model.worker import BundleReference


class Bundles:
    """Bundles by id, in memory and in the store."""

    def __init__(self, sequencer: Sequencer, held: Iterable[ConfigBundle], limit: int) -> None:
        """Take over the bundles of the store; at most `limit` are held, with those that are being stored."""
        self._sequencer = sequencer
        self._held = {bundle.metadata.id: bundle for bundle in held}
        self._storing: dict[asyncio.Task[None], str] = {}
        self._limit = limit

    @property
    def held(self) -> Mapping[str, ConfigBundle]:
        """Every bundle by its id."""
        return self._held

    def summaries(self) -> tuple[ConfigBundleSummary, ...]:
        """Return the bundles, by id."""
        return tuple(bundle_rules.summary(self._held[name]) for name in sorted(self._held))

    async def put(self, bundle: ConfigBundle) -> Availability:
        """Store a bundle, as Runtime.put_bundle says."""
        bundle_rules.check_bundle(bundle)
        bundle_id, known = bundle.metadata.id, {*self._held, *self._storing.values()}
        if bundle_id not in known and len(known) >= self._limit:
            raise InvalidRequest(f"bundle: expected at most {self._limit} bundles (max_bundles)")
        commit = self._sequencer.commit_and_apply(Change(bundle=bundle), partial(self._hold, bundle))
        storing = asyncio.get_running_loop().create_task(commit)
        self._storing[storing] = bundle_id
        storing.add_done_callback(self._stored)
        await asyncio.shield(storing)
        return bundle_rules.availability(bundle)

    def _stored(self, storing: asyncio.Task[None]) -> None:
        del self._storing[storing]
        if not storing.cancelled():
            storing.exception()  # the caller may be gone, and nothing else retrieves it

    def _hold(self, bundle: ConfigBundle) -> None:
        self._held[bundle.metadata.id] = bundle

    def availability(self, reference: BundleReference) -> Availability:
        """Return whether exactly this version is held. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        return bundle_rules.availability(self.version(reference))

    def version(self, reference: BundleReference) -> ConfigBundle:
        """Return exactly this version of a bundle. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        bundle_rules.check_digest(reference.digest, "digest")
        return bundle_rules.held(self._held, reference)
