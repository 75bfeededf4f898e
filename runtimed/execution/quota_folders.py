"""The folders of Workers, with what the host keeps for each. Everything here blocks."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from runtimed.errors import StoreUnsupported
from runtimed.execution.processes import project_quota
from runtimed.execution.workspace import Workspaces
from runtimed.model.identity import WorkerId


class QuotaFolders:
    """Workspaces that have the kernel limit a folder before it has content, and release the quota with the folder.

    Args:
        workspaces: Makes and removes the folders.
        removed: Called with the folder of a Worker once it is gone.
    """

    def __init__(self, workspaces: Workspaces, removed: Callable[[Path], None]) -> None:
        self._workspaces = workspaces
        self._removed = removed

    def worker_folder(self, worker_id: WorkerId) -> Path:
        return self._workspaces.worker_folder(worker_id)

    def find_worker_folder(self, worker_id: WorkerId) -> Path:
        return self._workspaces.find_worker_folder(worker_id)

    def make_spare(self) -> Path:
        return self._workspaces.make_spare()

    def adopt(self, worker_id: WorkerId, spare: Path) -> None:
        self._workspaces.adopt(worker_id, spare)

    def spares(self) -> Sequence[Path]:
        return self._workspaces.spares()

    def hold(self, worker_id: WorkerId, max_bytes: int) -> None:
        """Have the kernel limit the folder of a Worker, if it can.

        Raises no error: whatever uses the folder next meets the same one, and reports it.
        """
        with contextlib.suppress(OSError, StoreUnsupported):
            project_quota.hold(self.worker_folder(worker_id), max_bytes)

    def remove_worker_folder(self, worker_id: WorkerId, is_cut: Callable[[], bool]) -> None:
        folder = self._workspaces.find_worker_folder(worker_id)
        project = project_quota.find(folder)
        self._workspaces.remove_worker_folder(worker_id, is_cut)
        if os.path.lexists(folder):
            return
        if project:
            project_quota.release(project, folder.parent)
        self._removed(folder)
