"""What an observer wants to see."""

from collections.abc import Mapping

import attrs

from runtimed.feed.encoding import Encoding
from runtimed.model.identity import WorkerRef


@attrs.frozen(cache_hash=True)
class Selection:
    """Which events are shown: those of Workers that have all these `labels`, with one of these `names`.

    Empty ones select everything.
    """

    labels: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()

    def takes(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether an event with this name, of a Worker with these labels, is shown."""
        return (not self.names or name in self.names) and self.labels <= labels.items()


EVERYTHING = Selection()


@attrs.frozen
class View:
    """The events of one Worker, or of all (`ref` None), as some are to see them.

    Those that differ in their selection alone share the work. With `until_over` the view ends behind the last event
    of a Worker that is stopped or cancelled.
    """

    ref: WorkerRef | None
    encoding: Encoding
    selection: Selection = EVERYTHING
    until_over: bool = False

    @property
    def whole(self) -> "View":
        """The view of which this one shows some."""
        return View(self.ref, self.encoding, until_over=self.until_over)
