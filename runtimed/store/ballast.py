"""Room that is kept aside on the disk, for what must be stored when there is no other."""

import errno
import logging
import os
from pathlib import Path

from runtimed.store.folder import BALLAST, open_private

BALLAST_BYTES = 1024 * 1024

RETRY_S = 1.0
"""How often the room is looked for again while it is in use and nothing is written."""

_log = logging.getLogger(__name__)


class Ballast:
    """A file of real blocks in the store's folder: whole when all is well, empty while its room is in use.

    `in_use` says so, through a restart too. A disk that had no room for it in the first place has none, and is used
    to its end. Owned by one thread at a time; all of it blocks. A failure to keep it is no failure of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / BALLAST
        self._kept = False
        self.in_use = False

    def prepare(self) -> None:
        """Make the file where there is room for it twice; let it go where there is not enough left to start.

        Raises StoreUnsupported for something else of its name.
        """
        if not os.path.lexists(self._path) and not self._has_room():
            _log.warning("the disk has no room to keep %d bytes aside for when it is full", BALLAST_BYTES)
            return
        handle = open_private(self._path, os.O_RDWR | os.O_CREAT)
        self._kept = True
        self.in_use = os.fstat(handle).st_blocks * 512 < BALLAST_BYTES
        os.close(handle)
        if self.in_use:
            self.take_back()
        elif self.room() < BALLAST_BYTES:
            self.release()

    def release(self) -> bool:
        """Give the room away; False where there was none."""
        if self.in_use or not self._kept:
            return False
        self.in_use = True
        try:
            os.truncate(self._path, 0)
        except OSError as error:
            _log.warning("the file %s could not be emptied: %s", BALLAST, error.strerror)
        _log.error("the disk is full: only what ends Workers or frees room is stored, until there is room again")
        return True

    def take_back(self) -> None:
        """Keep the room aside again, where as much as that is left for the rest."""
        if not self._has_room():
            return
        try:
            self._fill()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                _log.warning("the file %s could not be made: %s", BALLAST, error.strerror)
            return
        if self.in_use:
            self.in_use = False
            _log.debug("%d bytes of the disk are kept aside for when it is full", BALLAST_BYTES)

    def room(self) -> int:
        """The bytes that the disk has left for this user; 0 where that cannot be told, for a folder is gone, say."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _fill(self) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, BALLAST_BYTES)
        except OSError:
            os.ftruncate(handle, 0)
            raise
        finally:
            os.close(handle)

    def _has_room(self) -> bool:
        return self.room() >= 2 * BALLAST_BYTES
