"""Consistent copies of a database, made in short steps while others write it. All functions block."""

import contextlib
import os
from pathlib import Path

import apsw

from runtimed.errors import StoreFull, Unavailable
from runtimed.store.data_dir import open_private
from runtimed.store.factories import Progress
from runtimed.store.sqlite.connection import connect_copy
from runtimed.store.sqlite.wal import log_of

STEP_PAGES = 256
"""The pages that are copied at a time: 1 MiB, unless the database has other pages."""

SPARE_BYTES = 16 * 2**20
"""The space that a copy leaves on the disk."""

MAX_GROWTH_BYTES = 2**30
"""By how much the write-ahead log may grow while a copy is made. It is not copied into the database meanwhile."""

_FORMAT_VERSIONS_AT = 18
_ROLLBACK_JOURNAL = b"\1\1"
"""What a database file has at that place if it needs no write-ahead log."""


def copy_database(source: apsw.Connection, target: Path, progress: Progress) -> None:
    """Copy a database as it is now into a new file of mode 0600, which needs no log beside it.

    The copy is not synced to the disk. On failure the file is removed.

    Args:
        source: A connection that nobody else uses meanwhile. It reads one snapshot, so commits of others are welcome,
            and stay in the log until the copy is finished.
        target: The file. One that is there is removed.
        progress: Called after each step. It raises to give the copy up.

    Raises:
        StoreFull: There is too little space, or there is meanwhile.
        Unavailable: The log has grown by more than MAX_GROWTH_BYTES meanwhile.
    """
    target.unlink(missing_ok=True)
    os.close(open_private(target, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    try:
        with source:
            source.pragma("schema_version")  # from here on the snapshot stays the same
            _check_room(target.parent, source.pragma("page_count") * source.pragma("page_size"))
            _copy(source, target, progress)
        _drop_log_version(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _check_room(folder: Path, size_bytes: int) -> None:
    needed = size_bytes + SPARE_BYTES
    found = os.statvfs(folder)
    room = found.f_bavail * found.f_frsize
    if room < needed:
        raise StoreFull(f"too little space for a copy of the store: {needed} bytes are needed, {room} are free")


def _copy(source: apsw.Connection, target: Path, progress: Progress) -> None:
    log, page_bytes = log_of(Path(source.filename)), source.pragma("page_size")
    max_log_bytes = _size(log) + MAX_GROWTH_BYTES
    with contextlib.closing(connect_copy(target)) as copy, copy.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(STEP_PAGES)
            progress(backup.page_count - backup.remaining, backup.page_count)
            _check_room(target.parent, backup.remaining * page_bytes)
            if _size(log) > max_log_bytes:
                raise Unavailable("changes come too fast for a backup; try again when there are fewer")


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _drop_log_version(database: Path) -> None:
    """Have SQLite read the file without a log. Its content stays as it is."""
    handle = os.open(database, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(handle, _ROLLBACK_JOURNAL, _FORMAT_VERSIONS_AT)
    finally:
        os.close(handle)
