"""The folders of Workers, and the directory where the programs of each start."""

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from runtimed.core.ports import Spawn
from runtimed.errors import StoreUnsupported
from runtimed.execution.processes import project_quota
from runtimed.execution.processes.confinement import Enclosure
from runtimed.execution.processes.limits import FolderLimit
from runtimed.execution.session.exit_reason import failure_text
from runtimed.execution.session.warnings import alert
from runtimed.model.event import Alert
from runtimed.model.identity import WorkerId


class Workspaces(Protocol):
    """Makes and removes the folders of Workers. All methods block."""

    def worker_folder(self, worker_id: WorkerId) -> Path:
        """Return the folder of a Worker, and make it if there is none."""

    def find_worker_folder(self, worker_id: WorkerId) -> Path:
        """Return where the folder of a Worker is, or would be made."""

    def make_spare(self) -> Path:
        """Make a folder for a Worker that is not known yet, and return it."""

    def adopt(self, worker_id: WorkerId, spare: Path) -> None:
        """Make such a folder a Worker's own. It keeps its name, so programs stay in it and find it again.

        Raises:
            OSError: The Worker has files already, or the file system refuses.
        """

    def spares(self) -> Sequence[Path]:
        """Return the folders that `make_spare` has ever made and that no Worker has adopted."""

    def remove_worker_folder(self, worker_id: WorkerId, is_cut: Callable[[], bool]) -> None:
        """Remove the folder of a Worker with all that is in it. Does nothing when there is none.

        Args:
            worker_id: Whose folder.
            is_cut: Asked now and then; once it returns True, the removal stops early.

        Raises:
            OSError: Something is left. `strerror` says why, `filename` names it within the folder.
        """


HOME = "home"
SCRIPTS = "scripts"
"""The folders in a Worker's own folder: where its programs start, and what a shell reads."""

FOLDER_DEADLINE_S = 10.0
"""How long a run waits for the file system of its Worker's folder before it goes on without."""

GONE = "the Worker's folder was gone: it was made anew, and is empty"
WORKSPACE_GONE = "the folder of the Worker's workspace is gone or was replaced"
OLD_FOLDER = "a confined program that was started before does not see the new one"
REPLACED = "the Worker's folder was replaced by another; what was started before is still in the old one"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")
log = logging.getLogger(__name__)


class Home:
    """The directory in which a Worker's programs start: `path`, a workspace or `home` inside the Worker's `folder`.

    Scripts or cleaners of temporary files may remove or replace it at any time. The Worker's own folder is made again
    then, a workspace is not.

    Args:
        workspaces: Makes the Worker's own folder.
        spawn: The request to run the Worker.
        max_folder_bytes: How large that folder may become; 0 means no limit.

    Attributes:
        worker_id: The Worker.
        folder: The Worker's own folder.
        path: The directory.
        folders: All folders that the Worker works in, `path` first.
    """

    def __init__(self, workspaces: Workspaces, spawn: Spawn, max_folder_bytes: int = 0) -> None:
        self._workspaces = workspaces
        self.worker_id = spawn.worker_id
        self._max_folder_bytes = max_folder_bytes
        self._project = 0
        self._is_known = bool(spawn.history)
        self._identity: tuple[int, int] | None = None
        self._work: asyncio.Task[Any] | None = None
        self._workspace = Path(spawn.folders.cwd) if spawn.folders.cwd is not None else None
        self._workspace_identity: tuple[int, int] | None = None
        self._others = tuple(map(Path, spawn.folders.others.values()))
        self.folder = self.path = Path()

    @property
    def folders(self) -> tuple[Path, ...]:
        return self.path, *self._others

    @property
    def folder_limit(self) -> FolderLimit | None:
        """The limit of the Worker's own folder; known once that was made."""
        if not self._max_folder_bytes:
            return None
        return FolderLimit(self.folder, self._max_folder_bytes, self._project)

    def make(self) -> str | None:
        """Make the Worker's own folder if it is missing, and find the directory. Blocks.

        Returns:
            A message for people if a directory that had been there was missing or replaced.

        Raises:
            OSError: It can't be made, or the folder of the workspace is gone.
            StoreUnsupported: The folder of the Worker can't be used.
        """
        note = self._make_own()
        if self._workspace is None:
            self.path = self.folder / HOME
            return note
        self.path = self._workspace
        found = _identity(self._workspace)
        if found is None or self._workspace_identity not in {None, found}:
            raise FileNotFoundError(errno.ENOENT, WORKSPACE_GONE)
        self._workspace_identity = found
        return None

    def _make_own(self) -> str | None:
        own = self.folder / HOME
        if self._identity is not None and _identity(own) == self._identity:
            return None
        self.folder = self._workspaces.worker_folder(self.worker_id).absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._project = project_quota.hold(self.folder, self._max_folder_bytes)
        own = self.folder / HOME
        found = _identity(own)
        if found is None:
            _make(self.folder)
        note = GONE if found is None else REPLACED if self._identity is not None else None
        note = note if self._is_known else None
        self._identity, self._is_known = _identity(own), True
        return note

    def _make_for(self, enclosure: Enclosure | None) -> str | None:
        note = self.make()
        if note and enclosure is not None:
            enclosure.prepare()
        return note

    def adopt(self, spare: Path) -> None:
        """Make the folder of a program that was started ahead the Worker's own, under the name that it has. Blocks.

        Raises:
            OSError: The Worker has files already, or the file system refuses.
        """
        self._workspaces.adopt(self.worker_id, spare)

    async def renewed(self, enclosure: Enclosure | None, *, stays: bool = True) -> Alert | None:
        """Make the directory again if it is gone, and return an alert about that.

        Args:
            enclosure: What confines the Worker, whose user owns the directory then.
            stays: A confined program that runs already goes on in the old directory, and does not see the new one.
        """
        try:
            note = await self.use(partial(self._make_for, enclosure))
        except TimeoutError as error:
            log.warning("cannot look at the folder of a Worker", extra={"worker_id": self.worker_id, "reason": error})
            return alert(f"the Worker's folder could not be looked at: {error}", "error")
        except (OSError, StoreUnsupported) as error:
            fields = {"worker_id": self.worker_id, "reason": error}
            log.warning("the folder of a Worker is gone and cannot be made again", extra=fields)
            return alert(f"the Worker's folder is gone, and could not be made anew: {failure_text(error)}", "error")
        if note and stays and enclosure is not None and enclosure.confines:
            note = f"{note}; {OLD_FOLDER}"
        return alert(note) if note else None

    async def use(self, work: Callable[[], T]) -> T:
        """Run a function that blocks on the folder in a thread, after those before it.

        A function that is late goes on in its thread, and the next one waits for it: they never overlap, and a folder
        that hangs occupies one thread.

        Raises:
            TimeoutError: It took longer than FOLDER_DEADLINE_S.
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


def make_spare(workspaces: Workspaces, max_bytes: int = 0) -> Path:
    """Make a folder for a program that is started ahead, with its HOME, and return it. Blocks.

    Args:
        workspaces: Makes it.
        max_bytes: How large it may become; 0 means no limit.

    Raises:
        OSError: It can't be made.
        StoreUnsupported: The folders of Workers can't be used.
    """
    folder = workspaces.make_spare().absolute()
    project_quota.hold(folder, max_bytes)
    (folder / HOME).mkdir(mode=0o700)
    return folder


def remove_spare(workspaces: Workspaces, folder: Path) -> None:
    """Remove such a folder. A failure is logged. Blocks."""
    try:
        workspaces.remove_worker_folder(WorkerId(folder.name), lambda: False)
    except OSError as error:
        log.warning("cannot remove a spare folder", extra={"path": error.filename, "reason": error.strerror})


def remove_spares(workspaces: Workspaces) -> None:
    """Remove all such folders that no Worker has adopted: no program runs in them. Blocks. Raises as `make_spare`."""
    for folder in workspaces.spares():
        remove_spare(workspaces, folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    """The device and inode of a folder; None if there is no folder."""
    try:
        found = folder.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _make(folder: Path) -> None:
    """Make the home in a Worker's folder. A file with its name is removed; a symlink is not followed.

    A start that was given up may still run in a thread of its own, and make it first.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(HOME, dir_fd=descriptor)
        with contextlib.suppress(FileExistsError):
            os.mkdir(HOME, 0o700, dir_fd=descriptor)
    finally:
        os.close(descriptor)
