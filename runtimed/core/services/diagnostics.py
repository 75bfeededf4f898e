"""The diagnostics that a Runtime keeps."""

from collections.abc import Iterable, Sequence

from runtimed.core.state.change import NumberedDiagnostic
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId


class Diagnostics:
    """The newest diagnostics, oldest first, as they are in the store."""

    def __init__(self, kept: Iterable[NumberedDiagnostic]) -> None:
        self._kept = list(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, worker_id: WorkerId) -> bool:
        return any(one.diagnostic.worker_id == worker_id for one in self._kept)

    def keep(self, newer: Sequence[NumberedDiagnostic]) -> None:
        """Add newer ones."""
        self._kept += newer

    def drop(self, upto: int) -> None:
        """Drop those up to this number."""
        self._kept = [one for one in self._kept if one.number > upto]

    def drop_worker(self, worker_id: WorkerId) -> None:
        """Drop those about a Worker."""
        self._kept = [one for one in self._kept if one.diagnostic.worker_id != worker_id]

    def surplus(self, limit: int) -> int:
        """Return the number up to which to drop, so that `limit` are left; 0 for none."""
        return self._kept[-limit - 1].number if len(self._kept) > limit else 0

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return all that are kept, oldest first."""
        return tuple(one.diagnostic for one in self._kept)
