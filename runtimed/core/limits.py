"""How much the Runtime takes and gives out at once."""

from runtimed.core.paging import PageSize
from runtimed.model.runtime import RuntimeLimits
from runtimed.model.value import value

MAX_SNAPSHOT_BYTES = 512 * 2**10
"""The bound of section 6 of the v1 contract: clients that take frames of 1 MiB get every snapshot."""


@value
class Limits:
    """Items are counted, bytes are those of the content in UTF-8.

    `max_pending_events` is how many events of one Worker may wait for the store before its backend is made to wait,
    `max_open_text` how many characters of text, thought and arguments together a backend may stream before it says
    that they are done, `max_pending_permissions` how many of its questions may wait for an answer,
    `max_queued_inputs` how many inputs may wait their turn. `max_restores` Workers are brought back at once when the
    Runtime starts.

    `max_snapshot_bytes` is the size of the largest snapshot frame; the contract allows no larger one.

    `max_replay_items` and `max_replay_bytes` are what an observer that catches up is given at once; it is more than a
    client may ask for, because each read costs a change of threads.

    Events are retained up to `max_events_per_worker`, `max_event_age_s` seconds and `max_event_bytes` of all Workers
    together, whichever is reached first; runtime events and diagnostics up to a number. Transcripts are kept whole;
    the pages of them that were read last stay in memory up to `transcript_cache_bytes`.
    """

    max_transcript_projection_items: int = 256
    max_event_batch_items: int = 256
    max_page_bytes: int = 8 * 2**20
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES
    max_replay_items: int = 1_024
    max_replay_bytes: int = 2**20
    max_pending_events: int = 256
    max_open_text: int = 8 * 2**20
    max_pending_permissions: int = 64
    max_queued_inputs: int = 64
    max_restores: int = 8
    max_bundles: int = 1_000
    max_workers: int = 100_000
    max_events_per_worker: int = 100_000
    max_event_age_s: int = 30 * 24 * 3600
    max_event_bytes: int = 4 * 2**30
    max_runtime_events: int = 100_000
    max_diagnostics: int = 10_000
    transcript_cache_bytes: int = 16 * 2**20

    @property
    def transcript_page(self) -> PageSize:
        """The largest page of a transcript."""
        return PageSize(self.max_transcript_projection_items, self.max_page_bytes)

    @property
    def snapshot_page(self) -> PageSize:
        """The most entries that can be in a snapshot."""
        return PageSize(self.max_transcript_projection_items, self.max_snapshot_bytes)

    @property
    def event_page(self) -> PageSize:
        """The largest page of events that a client may ask for."""
        return PageSize(self.max_event_batch_items, self.max_page_bytes)

    @property
    def replay_page(self) -> PageSize:
        """What an observer that catches up is given at once."""
        return PageSize(self.max_replay_items, self.max_replay_bytes)

    def view(self) -> RuntimeLimits:
        """The limits that clients are told."""
        return RuntimeLimits(self.max_transcript_projection_items, self.max_event_batch_items)
