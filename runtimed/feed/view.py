"""The part of the feed that an observer asks for."""

from collections.abc import Mapping

import attrs

from runtimed.feed.encoding import Encoding
from runtimed.model.identity import WorkerRef
from runtimed.model.principal import Principal


@attrs.frozen(cache_hash=True)
class Selection:
    """Selects events by the labels of their Workers and by their names.

    Attributes:
        labels: Only events of Workers that have all these labels. Empty for all Workers.
        names: Only events with one of these names. Empty for all names.
    """

    labels: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Return whether an event with this name, of a Worker with these labels, is selected."""
        return (not self.names or name in self.names) and self.labels <= labels.items()


EVERYTHING = Selection()


@attrs.frozen
class View:
    """Events of one Worker, of one tenant or of all, selected and encoded.

    Views that differ only in `selection` share one log.

    Attributes:
        ref: The Worker, or None for all.
        encoding: How events are encoded.
        selection: Which events are shown.
        until_over: End after the last event of the Worker once it is stopped or cancelled.
        tenant: Without a `ref`, only events of this tenant's Workers, or None for those of all.
    """

    ref: WorkerRef | None
    encoding: Encoding
    selection: Selection = EVERYTHING
    until_over: bool = False
    tenant: str | None = None

    @property
    def unfiltered(self) -> "View":
        """The same view without its selection."""
        return View(self.ref, self.encoding, until_over=self.until_over, tenant=self.tenant)

    def narrowed(self, principal: Principal) -> "View":
        """Return what a client may see of the view. Whether it sees the Worker of a `ref` is checked elsewhere."""
        if principal.sees_all or self.ref is not None:
            return self
        labels = self.selection.labels.union(principal.labels)
        return attrs.evolve(self, selection=attrs.evolve(self.selection, labels=labels), tenant=principal.tenant)
