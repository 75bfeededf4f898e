"""Where Workers have folders of their own."""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from runtimed.core.ports import Spawn
from runtimed.errors import StoreUnsupported
from runtimed.execution.complaints import alert
from runtimed.execution.loss import cause
from runtimed.model.event import Alert
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

FOLDER_DEADLINE_S = 10.0
"""How long the file system of a Worker's folder may take for what a run needs, before the run goes on without it."""

GONE = "the Worker's folder was gone: it was made anew, and is empty"
REPLACED = "the Worker's folder was replaced by another; what was started before is still in the old one"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Home:
    """The directory in which a Worker's programs start: `path`, in the Worker's `folder`.

    A script, or a cleaner of temporary files, may remove it, or put something else in its place.
    """

    def __init__(self, workspaces: Workspaces, spawn: Spawn) -> None:
        self._workspaces = workspaces
        self._worker_id = spawn.worker_id
        self._is_known = bool(spawn.history)
        self._identity: tuple[int, int] | None = None
        self._work: asyncio.Task[Any] | None = None
        self.folder = self.path = Path()

    def make(self) -> str | None:
        """Make it where it is not there, and return what to tell where it had been. Blocks.

        Raises OSError or StoreUnsupported.
        """
        if self._identity is not None and _identity(self.path) == self._identity:
            return None
        self.folder = self._workspaces.worker_folder(self._worker_id).absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = self.folder / HOME
        found = _identity(self.path)
        if found is None:
            _make(self.folder)
        told = GONE if found is None else REPLACED if self._identity is not None else None
        told = told if self._is_known else None
        self._identity, self._is_known = _identity(self.path), True
        return told

    async def renewed(self) -> Alert | None:
        """Make it where it is not there any more, and return what to tell of that."""
        try:
            told = await self.use(self.make)
        except TimeoutError as error:
            _log.warning("the folder of %s could not be looked at: %s", self._worker_id, error)
            return alert(f"the Worker's folder could not be looked at: {error}", "error")
        except (OSError, StoreUnsupported) as error:
            _log.warning("the folder of %s is gone and could not be made anew: %s", self._worker_id, error)
            return alert(f"the Worker's folder is gone, and could not be made anew: {cause(error)}", "error")
        return alert(told) if told else None

    async def use(self, work: Callable[[], T]) -> T:
        """Do something that blocks in the folder, once what was begun before is over.

        Raises TimeoutError where that takes longer than FOLDER_DEADLINE_S. The work goes on then in its thread; what
        is to be done next waits for it, so that it can't undo that, and one folder holds up one thread.
        """
        try:
            async with asyncio.timeout(FOLDER_DEADLINE_S):
                while self._work is not None and not self._work.done():
                    await asyncio.wait({self._work})
                doing = self._work = asyncio.create_task(asyncio.to_thread(work))
                return await asyncio.shield(doing)
        except TimeoutError:
            late = f"its file system did not answer within {FOLDER_DEADLINE_S:g} s"
            raise TimeoutError(late) from None


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder this is; None where there is none, or something else."""
    try:
        found = folder.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _make(folder: Path) -> None:
    """Make the home in a Worker's folder; what else has its name is removed, a symlink not followed.

    A start that was given up may still be at it in a thread of its own, and be done first.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(HOME, dir_fd=descriptor)
        with contextlib.suppress(FileExistsError):
            os.mkdir(HOME, 0o700, dir_fd=descriptor)
    finally:
        os.close(descriptor)
