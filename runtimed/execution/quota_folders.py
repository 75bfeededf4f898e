"""The folders of Workers, with what the host keeps for each. Everything here blocks."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from runtimed.errors import StoreUnsupported
from runtimed.execution.processes import project_quota
from runtimed.execution.workspace import Workspaces
from runtimed.model.identity import WorkerId


class QuotaFolders:
    """Workspaces that have the kernel limit a folder before it has content, and release the quota with the folder.

    Args:
        workspaces: Makes and removes the folders, all in the same one.
        removed: Called once the folder of a Worker is gone.
    """

    def __init__(self, workspaces: Workspaces, removed: Callable[[WorkerId], None]) -> None:
        self._workspaces = workspaces
        self._removed = removed
        self._parent: Path | None = None

    def worker_folder(self, worker_id: WorkerId) -> Path:
        folder = self._workspaces.worker_folder(worker_id)
        self._parent = folder.parent
        return folder

    def hold(self, worker_id: WorkerId, max_bytes: int) -> None:
        """Have the kernel limit the folder of a Worker, if it can. A failure comes again when it is used."""
        with contextlib.suppress(OSError, StoreUnsupported):
            project_quota.hold(self.worker_folder(worker_id), max_bytes)

    def remove_worker_folder(self, worker_id: WorkerId, is_cut: Callable[[], bool]) -> None:
        parent = self._parent
        project = project_quota.find(parent / worker_id) if parent is not None else 0
        self._workspaces.remove_worker_folder(worker_id, is_cut)
        if parent is None or (parent / worker_id).exists():
            return
        if project:
            project_quota.release(project, parent)
        self._removed(worker_id)
