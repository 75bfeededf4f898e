"""Disk space that is reserved for changes that must be stored on a full disk."""

import errno
import logging
import os
from pathlib import Path

from runtimed.store.data_dir import BALLAST, open_private

BALLAST_BYTES = 1024 * 1024

MIN_ROOM_BYTES = 64 * 1024
"""A disk with less space left is full: a commit needs a few pages of the write-ahead log."""

RETRY_S = 1.0
"""How often an idle store looks for space, and tries to restore a ballast that is in use."""

log = logging.getLogger(__name__)


class Ballast:
    """A file in the store's folder whose blocks are given back when the disk is full.

    A store has no ballast if its disk never had enough space. A failure to keep the ballast is no failure of the
    store. One thread at a time may use it. All methods block.

    Attributes:
        in_use: Whether the file was emptied. A restart determines this again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / BALLAST
        self._kept = False
        self.in_use = False

    def prepare(self) -> None:
        """Create the file if the disk has twice its size left, and empty it if there is too little space to start.

        Raises:
            StoreUnsupported: Its name is taken by something else.
        """
        if not os.path.lexists(self._path) and not self._has_room():
            log.warning("too little disk space to reserve some for a full disk", extra={"bytes": BALLAST_BYTES})
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
        """Give the space back to the disk. Returns whether there was any."""
        if self.in_use or not self._kept:
            return False
        self.in_use = True
        try:
            os.truncate(self._path, 0)
        except OSError as error:
            log.warning("cannot empty the reserve for a full disk", extra={"file": BALLAST, "reason": error.strerror})
        log.error("disk full: accepting only stops and deletions until space is available")
        return True

    def take_back(self) -> None:
        """Fill the file again if the disk has twice its size left."""
        if not self._has_room():
            return
        try:
            self._fill()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                log.warning("cannot reserve space for a full disk", extra={"file": BALLAST, "reason": error.strerror})
            return
        if self.in_use:
            self.in_use = False
            log.debug("reserved space for a full disk", extra={"bytes": BALLAST_BYTES})

    def room(self) -> int:
        """Return the bytes that the disk has left for this user, 0 if the system does not report them."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def free_bytes(self) -> int | None:
        """Return the bytes that commits can have, which for root includes its reserve. None if nobody knows."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return None
        blocks = found.f_bavail if os.geteuid() else found.f_bfree
        return blocks * found.f_frsize

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
