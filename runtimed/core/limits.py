"""The limits of a Runtime."""

from runtimed.core.paging import PageSize
from runtimed.core.state.activity import MAX_OPEN_TEXT
from runtimed.model.runtime import RuntimeLimits
from runtimed.model.value import value

MAX_SNAPSHOT_BYTES = 512 * 2**10
"""Section 6 of the v1 contract: clients that accept frames of 1 MiB get every snapshot."""

AT_START = frozenset(
    {
        "max_transcript_projection_items",
        "max_event_batch_items",
        "max_restores",
        "max_bundles",
        "max_tokens",
        "max_idempotency_keys",
        "transcript_cache_bytes",
    }
)
"""The limits that stay as they are at the start of a Runtime. Clients know the first two."""


@value
class Limits:
    """The limits of a Runtime. Bytes are those of content in UTF-8. Transcripts are kept whole.

    Attributes:
        max_transcript_projection_items: Entries in a page of a transcript, and in a snapshot.
        max_event_batch_items: Events in a page that a client asks for.
        max_page_bytes: Bytes in either page.
        max_snapshot_bytes: Bytes in a snapshot frame; the contract allows no more.
        max_replay_items: Events that an observer reads at once while it catches up. More than a client may ask for,
            because each read switches threads.
        max_replay_bytes: Bytes that an observer reads at once while it catches up.
        max_pending_events: Events of one Worker that wait to be committed before its backend has to wait.
        max_open_text: Characters of text, thought and arguments that a backend may have in flight together.
        max_pending_permissions: Pending permission requests of one Worker.
        max_queued_inputs: Queued inputs of one Worker.
        max_restores: Workers that are restored at once when the Runtime starts.
        max_bundles: Config bundles.
        max_tokens: Tokens besides the first one.
        max_workers: Workers.
        max_events_per_worker: Retained events of one Worker.
        max_event_age_s: Age of retained events, in seconds.
        max_event_bytes: Bytes of the retained events of all Workers together.
        max_runtime_events: Retained runtime events.
        max_diagnostics: Retained diagnostics.
        max_idempotency_keys: Idempotency keys of requests that were carried out. The oldest go first.
        transcript_cache_bytes: Bytes of recently read transcript pages in memory.
    """

    max_transcript_projection_items: int = 256
    max_event_batch_items: int = 256
    max_page_bytes: int = 8 * 2**20
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES
    max_replay_items: int = 1_024
    max_replay_bytes: int = 2**20
    max_pending_events: int = 256
    max_open_text: int = MAX_OPEN_TEXT
    max_pending_permissions: int = 64
    max_queued_inputs: int = 64
    max_restores: int = 8
    max_bundles: int = 1_000
    max_tokens: int = 1_000
    max_workers: int = 100_000
    max_events_per_worker: int = 100_000
    max_event_age_s: int = 30 * 24 * 3600
    max_event_bytes: int = 4 * 2**30
    max_runtime_events: int = 100_000
    max_diagnostics: int = 10_000
    max_idempotency_keys: int = 100_000
    transcript_cache_bytes: int = 16 * 2**20

    @property
    def transcript_page(self) -> PageSize:
        """The largest page of a transcript."""
        return PageSize(self.max_transcript_projection_items, self.max_page_bytes)

    @property
    def snapshot_page(self) -> PageSize:
        """The most entries in a snapshot."""
        return PageSize(self.max_transcript_projection_items, self.max_snapshot_bytes)

    @property
    def event_page(self) -> PageSize:
        """The largest page of events that a client may ask for."""
        return PageSize(self.max_event_batch_items, self.max_page_bytes)

    @property
    def replay_page(self) -> PageSize:
        """The page that an observer reads while it catches up."""
        return PageSize(self.max_replay_items, self.max_replay_bytes)

    def view(self) -> RuntimeLimits:
        """Return the limits that the API shows."""
        return RuntimeLimits(self.max_transcript_projection_items, self.max_event_batch_items)


@value
class TenantLimits:
    """The limits of one tenant, besides those of the Runtime. None is no limit.

    Attributes:
        max_workers: Its Workers.
        max_requests_per_s: Requests that its clients send in a second.
        max_creates_per_s: Workers that its clients create in a second.
        max_event_bytes: Bytes of the retained events of its Workers together.
    """

    max_workers: int | None = None
    max_requests_per_s: float | None = None
    max_creates_per_s: float | None = None
    max_event_bytes: int | None = None


NO_TENANT_LIMITS = TenantLimits()
