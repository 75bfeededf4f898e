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
    """Bundles by id, at most `limit` with those that are being stored, in memory as in the store."""

    def __init__(self, sequencer: Sequencer, held: Iterable[ConfigBundle], limit: int) -> None:
        self._sequencer = sequencer
        self._held = {bundle.metadata.id: bundle for bundle in held}
        self._arriving: dict[asyncio.Task[None], str] = {}
        self._limit = limit

    @property
    def held(self) -> Mapping[str, ConfigBundle]:
        """Every bundle by its id."""
        return self._held

    def summaries(self) -> tuple[ConfigBundleSummary, ...]:
        """The bundles, by id."""
        return tuple(bundle_rules.summary(self._held[name]) for name in sorted(self._held))

    async def put(self, bundle: ConfigBundle) -> Availability:
        """Keep a bundle; one with the same id is replaced. Raises what the checks of contract section 5 name."""
        bundle_rules.check_bundle(bundle)
        bundle_id, known = bundle.metadata.id, {*self._held, *self._arriving.values()}
        if bundle_id not in known and len(known) >= self._limit:
            raise InvalidRequest(f"bundle: expected at most {self._limit} bundles (max_bundles)")
        keep = partial(self._keep, bundle)
        arriving = asyncio.get_running_loop().create_task(self._sequencer.apply(Change(bundle=bundle), keep))
        self._arriving[arriving] = bundle_id
        arriving.add_done_callback(self._arrived)
        await asyncio.shield(arriving)
        return bundle_rules.availability(bundle)

    def _arrived(self, arriving: asyncio.Task[None]) -> None:
        """What came of it is for whoever waits; where that is nobody, it concerns nobody."""
        del self._arriving[arriving]
        if not arriving.cancelled():
            arriving.exception()

    def _keep(self, bundle: ConfigBundle) -> None:
        self._held[bundle.metadata.id] = bundle

    def availability(self, reference: BundleReference) -> Availability:
        """Whether exactly this version is held. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        bundle_rules.check_digest(reference.digest, "digest")
        return bundle_rules.availability(bundle_rules.held(self._held, reference))
