"""The diagnostics that a Runtime keeps."""

from collections.abc import Iterable, Sequence

from runtimed.core.state.change import NumberedDiagnostic
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId


class Diagnostics:
    """The newest remarks, oldest first, in memory as in the store."""

    def __init__(self, diagnostics: Iterable[NumberedDiagnostic]) -> None:
        self._diagnostics = list(diagnostics)

    def __len__(self) -> int:
        return len(self._diagnostics)

    def __contains__(self, worker_id: WorkerId) -> bool:
        return any(diagnostic.diagnostic.worker_id == worker_id for diagnostic in self._diagnostics)

    def keep(self, diagnostics: Sequence[NumberedDiagnostic]) -> None:
        """Add newer ones."""
        self._diagnostics += diagnostics

    def drop(self, upto: int) -> None:
        """Let go of those up to this number."""
        self._diagnostics = [diagnostic for diagnostic in self._diagnostics if diagnostic.number > upto]

    def drop_worker(self, worker_id: WorkerId) -> None:
        """Let go of what was said of a Worker."""
        self._diagnostics = [
            diagnostic for diagnostic in self._diagnostics if diagnostic.diagnostic.worker_id != worker_id
        ]

    def surplus(self, limit: int) -> int:
        """The number up to which they are to be dropped, so that `limit` are left; 0 for none."""
        return self._diagnostics[-limit - 1].number if len(self._diagnostics) > limit else 0

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All that is kept, oldest first."""
        return tuple(diagnostic.diagnostic for diagnostic in self._diagnostics)
