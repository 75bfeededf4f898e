"""The diagnostics that a Runtime keeps."""

from collections.abc import Iterable, Sequence

from runtimed.core.change import Remark
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.identity import WorkerId


class Remarks:
    """The newest remarks, oldest first, in memory as in the store."""

    def __init__(self, remarks: Iterable[Remark]) -> None:
        self._remarks = list(remarks)

    def __len__(self) -> int:
        return len(self._remarks)

    def __contains__(self, worker_id: WorkerId) -> bool:
        return any(remark.diagnostic.worker_id == worker_id for remark in self._remarks)

    def keep(self, remarks: Sequence[Remark]) -> None:
        """Add newer ones."""
        self._remarks += remarks

    def drop(self, upto: int) -> None:
        """Let go of those up to this number."""
        self._remarks = [remark for remark in self._remarks if remark.number > upto]

    def drop_worker(self, worker_id: WorkerId) -> None:
        """Let go of what was said of a Worker."""
        self._remarks = [remark for remark in self._remarks if remark.diagnostic.worker_id != worker_id]

    def surplus(self, limit: int) -> int:
        """The number up to which they are to be dropped, so that `limit` are left; 0 for none."""
        return self._remarks[-limit - 1].number if len(self._remarks) > limit else 0

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All that is kept, oldest first."""
        return tuple(remark.diagnostic for remark in self._remarks)
