"""The config bundles that a Runtime holds."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain

from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.state import bundle_rules
from runtimed.core.state.change import Change, StoredBundle
from runtimed.errors import InvalidRequest
from runtimed.model.bundle import Availability, ConfigBundle, ConfigBundleSummary
from runtimed.model.principal import Principal
from runtimed.model.worker import BundleReference

Key = tuple[str, str]
"""The id of a bundle, and its tenant or an empty text."""


class Bundles:
    """Bundles by tenant and id, in memory and in the store."""

    def __init__(self, sequencer: Sequencer, held: Iterable[StoredBundle], limit: int) -> None:
        """Take over the bundles of the store; at most `limit` are held, with those that are being stored."""
        self._sequencer = sequencer
        self._held: dict[str | None, dict[str, ConfigBundle]] = {}
        self._storing: dict[asyncio.Task[None], Key] = {}
        self._limit = limit
        for stored in held:
            self._hold(stored)

    def of_tenant(self, tenant: str | None) -> Mapping[str, ConfigBundle]:
        """Return the bundles of a tenant, or of none, by id."""
        return self._held.get(tenant, {})

    def summaries(self, principal: Principal) -> tuple[ConfigBundleSummary, ...]:
        """Return the bundles that a client sees, by id, then by tenant."""
        seen = {name: held for name, held in self._by_key().items() if principal.sees_tenant(held.tenant)}
        return tuple(bundle_rules.summary(seen[name]) for name in sorted(seen))

    def _by_key(self) -> dict[Key, StoredBundle]:
        return {
            (name, tenant or ""): StoredBundle(bundle, tenant)
            for tenant, bundles in self._held.items()
            for name, bundle in bundles.items()
        }

    async def put(self, bundle: ConfigBundle, tenant: str | None) -> Availability:
        """Store a bundle of a tenant, as Runtime.put_bundle says."""
        bundle_rules.check_bundle(bundle)
        key, known = (bundle.metadata.id, tenant or ""), {*self._by_key(), *self._storing.values()}
        if key not in known and len(known) >= self._limit:
            raise InvalidRequest(f"bundle: expected at most {self._limit} bundles (max_bundles)")
        stored = StoredBundle(bundle, tenant)
        commit = self._sequencer.commit_and_apply(Change(bundle=stored), partial(self._hold, stored))
        storing = asyncio.get_running_loop().create_task(commit)
        self._storing[storing] = key
        storing.add_done_callback(self._stored)
        await asyncio.shield(storing)
        return bundle_rules.availability(stored)

    def _stored(self, storing: asyncio.Task[None]) -> None:
        del self._storing[storing]
        if not storing.cancelled():
            storing.exception()  # the caller may be gone, and nothing else retrieves it

    def _hold(self, stored: StoredBundle) -> None:
        self._held.setdefault(stored.tenant, {})[stored.bundle.metadata.id] = stored.bundle

    def availability(self, reference: BundleReference, principal: Principal) -> Availability:
        """Return whether exactly this version is held. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
        return bundle_rules.availability(self.version(reference, principal))

    def version(self, reference: BundleReference, principal: Principal) -> StoredBundle:
        """Return exactly this version of a bundle that a client sees.

        A client without a tenant sees those of all. One that belongs to no tenant comes first.

        Raises:
            ConfigBundleMissing: It sees no bundle with this id.
            ConfigBundleDigestMismatch: None of them has this digest.
        """
        bundle_rules.check_digest(reference.digest, "digest")
        tenants = [tenant for tenant, held in self._held.items() if reference.id in held]
        seen = sorted(filter(principal.sees_tenant, tenants), key=lambda one: one or "")
        exact = (one for one in seen if self._held[one][reference.id].metadata.digest == reference.digest)
        tenant = next(chain(exact, seen), principal.tenant)
        return StoredBundle(bundle_rules.held(self.of_tenant(tenant), reference), tenant)
