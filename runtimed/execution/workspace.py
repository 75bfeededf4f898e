"""Where Workers have folders of their own."""

from pathlib import Path
from typing import Protocol

from runtimed.model.identity import WorkerId


class Workspaces(Protocol):
    """Makes and removes the folders of Workers; both block."""

    def worker_folder(self, worker_id: WorkerId) -> Path:
        """The folder that a Worker may call its own, made when it is not there yet."""

    def remove_worker_folder(self, worker_id: WorkerId) -> None:
        """Remove it with all that is in it. Harmless when there is none. Raises OSError."""
