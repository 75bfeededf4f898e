"""What an observer wants to see."""

import attrs

from runtimed.core.change import EncodedEvent
from runtimed.core.runtime import Runtime
from runtimed.feed.encoding import Encoding
from runtimed.model.identity import WorkerRef
from runtimed.wire.frames import event_name


@attrs.frozen
class Selection:
    """Which events are shown: those of Workers that have all these `labels`, with one of these `names`.

    Empty ones select everything.
    """

    labels: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()

    def takes(self, runtime: Runtime, event: EncodedEvent) -> bool:
        """Whether an event is shown."""
        if self.names and event_name(event.payload) not in self.names:
            return False
        return not self.labels or runtime.selects(event.worker_id, dict(self.labels))


EVERYTHING = Selection()


@attrs.frozen
class View:
    """The events of one Worker, or of all (`ref` None), as some are to see them; equal views share the work."""

    ref: WorkerRef | None
    encoding: Encoding
    selection: Selection = EVERYTHING
