"""Settings of the limits of a Runtime."""

import attrs

from runtimed.core.limits import MAX_SNAPSHOT_BYTES, Limits
from runtimed.errors import ConfigurationError
from runtimed.feed.snapshot import MIN_SNAPSHOT_BYTES


@attrs.frozen(slots=False)
class LimitSettings:
    """The limits of a Runtime, as core.limits.Limits documents them."""

    max_transcript_projection_items: int = Limits().max_transcript_projection_items
    max_event_batch_items: int = Limits().max_event_batch_items
    max_page_bytes: int = Limits().max_page_bytes
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES
    max_replay_items: int = Limits().max_replay_items
    max_replay_bytes: int = Limits().max_replay_bytes
    max_pending_events: int = Limits().max_pending_events
    max_open_text: int = Limits().max_open_text
    max_pending_permissions: int = Limits().max_pending_permissions
    max_queued_inputs: int = Limits().max_queued_inputs
    max_restores: int = Limits().max_restores
    max_bundles: int = Limits().max_bundles
    max_tokens: int = Limits().max_tokens
    max_workers: int = Limits().max_workers
    max_events_per_worker: int = Limits().max_events_per_worker
    max_event_age_s: int = Limits().max_event_age_s
    max_event_bytes: int = Limits().max_event_bytes
    max_runtime_events: int = Limits().max_runtime_events
    max_diagnostics: int = Limits().max_diagnostics
    max_idempotency_keys: int = Limits().max_idempotency_keys
    transcript_cache_bytes: int = Limits().transcript_cache_bytes

    def limits(self) -> Limits:
        """Return the limits of the Runtime."""
        names = (field.name for field in attrs.fields(Limits))
        return Limits(**{name: getattr(self, name) for name in names})

    def check_limits(self) -> None:
        """Raise ConfigurationError if a limit breaks the contract."""
        if not MIN_SNAPSHOT_BYTES <= self.max_snapshot_bytes <= MAX_SNAPSHOT_BYTES:
            raise ConfigurationError(
                f"max_snapshot_bytes: expected {MIN_SNAPSHOT_BYTES} to {MAX_SNAPSHOT_BYTES}, which clients rely on"
            )
