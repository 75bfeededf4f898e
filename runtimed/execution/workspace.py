"""Where Workers have folders of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runtimed.model.identity import WorkerId


class Workspaces(Protocol):
    """Makes and removes the folders of Workers; both block."""

    def worker_folder(self, worker_id: WorkerId) -> Path:
        """The folder that a Worker may call its own, made when it is not there yet."""

    def remove_worker_folder(self, worker_id: WorkerId, is_cut: Callable[[], bool]) -> None:
        """Remove it with all that is in it. Harmless when there is none. Ends early once `is_cut` says so.

        Raises OSError where something is left: `strerror` says why, `filename` where it is in the folder.
        """


HOME = "home"


def make_home(workspaces: Workspaces, worker_id: WorkerId) -> Path:
    """The directory in which a Worker's programs start, in its folder; made when it is not there yet. Blocks."""
    home = workspaces.worker_folder(worker_id).absolute() / HOME
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home
