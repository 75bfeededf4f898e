"""A new store from a backup."""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import apsw

from runtimed.core.state.change import Gap
from runtimed.errors import StoreCorrupt, StoreFull, StoreUnsupported
from runtimed.model.runtime import StoreCheck
from runtimed.store.backup_file import BackupFile, open_backup
from runtimed.store.data_dir import DataDir, hold_lock, sync_folder
from runtimed.store.factories import Restored
from runtimed.store.records import GAPS, META
from runtimed.store.removal import remove_folder
from runtimed.store.sqlite.check import Check
from runtimed.store.sqlite.connection import FULL, connect, enable_wal, translate_errors
from runtimed.store.sqlite.loading import load
from runtimed.store.sqlite.row_counts import MAX_NUMBER
from runtimed.store.sqlite.schema import check_version, create_or_migrate

LOST_SEQUENCES = 2**32
"""How many sequences are given up at least. The Runtime cannot have given out so many after the backup."""

SEQUENCES_PER_MS = 2**11
"""A restore raises sequences to the Unix time in milliseconds times this. No Runtime gives them out so fast, so those
of an earlier restore are below."""

MAX_OF_CLOCK = 7 * 2**50
"""The highest sequence that the clock may yield, in 2091. It leaves enough for restores with a wrong clock."""

LOST_WORKERS = 2**16
"""How many Worker numbers are given up at least."""

SPREAD_WORKERS = 32
"""The part of the remaining Worker numbers among which the first one is drawn: there are too few to use the clock."""

MAX_SEQUENCE = 2**53 - 1
"""The highest number that every JSON parser reads as it is."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def restore(file: Path, folder: Path) -> Restored:
    """Make a store of a backup. It appears whole, or not at all. Blocks until it is on the disk.

    All of it is read. Damage with which a store can be opened is reported, and restored as it is. The backup may be
    one of an earlier version: it is converted on the way.

    Args:
        file: The backup, which is not changed.
        folder: The folder of the new store, which does not exist, or is empty.

    Returns:
        What was read and found, and what the backup had left out.

    Raises:
        StoreInUse: Another process restores into this folder.
        StoreUnsupported: The folder is not empty or cannot be made, the file is no backup, or it is of a newer
            version.
        StoreCorrupt: The backup is damaged so that no store can be opened.
        StoreFull: The disk is full.
    """
    folder = folder.resolve()
    _check_free(folder)
    with _refused(folder), open_backup(file) as backup, _scratch(folder) as scratch:
        with DataDir(scratch) as database:
            found = _fill(database, backup)
            skipped = backup.extract_folders(scratch)
            os.sync()  # what is in the folders
            scratch.rename(folder)
        sync_folder(folder.parent)
    return Restored(found, skipped)


def _check_free(folder: Path) -> None:
    with _refused(folder):
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            raise StoreUnsupported(f"{folder}: it exists already; expected a path at which there is nothing yet")
        if folder.is_mount():
            raise StoreUnsupported(f"{folder}: expected a folder below the root of a file system, not the root")


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Raise an OSError about files as the matching error of a store."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreFull(FULL) from error
        raise StoreUnsupported(f"{error.filename or folder}: {error.strerror}") from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield the path of the folder in which a store is made. What is left there of a killed restore is removed."""
    scratch = folder.with_name(f".{folder.name}.restoring")
    if os.path.lexists(scratch):
        with hold_lock(scratch):
            remove_folder(scratch)
    try:
        yield scratch
    finally:
        remove_folder(scratch)


def _fill(database: Path, backup: BackupFile) -> StoreCheck:
    """Fill a database from a backup, check all of it, and raise its counters."""
    backup.copy_database(database)
    check = Check()
    with translate_errors(), contextlib.closing(connect(database)) as connection:
        if not check_version(connection) or not connection.execute("SELECT 1 FROM meta").get:
            raise StoreCorrupt("there is no store in the backup")
        enable_wal(connection)
        create_or_migrate(connection, time.time_ns() // 1_000_000)
        for step in chain(check.structure(), check.rows()):
            step(connection)
        _leave_gap(connection)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    return check.result()


def _leave_gap(connection: apsw.Connection) -> None:
    """Raise the counters, and store which sequences are given up. Raises StoreCorrupt if no store can be opened."""
    _, numbers = load(connection, None)
    unix_ms = time.time_ns() // 1_000_000
    raised = {key: _raised_sequence(key, numbers[key], unix_ms) for key in ("head", "runtime_event_id")}
    raised["worker_number"] = _raised_worker_number(numbers["worker_number"])
    gap = Gap(numbers["head"], raised["head"], unix_ms)
    with connection:
        connection.executemany(META.insert, map(META.row, raised.items()))
        connection.execute(GAPS.insert, GAPS.row(gap))


def _raised_sequence(key: str, number: int, unix_ms: int) -> int:
    """Return a number above all that the Runtime has given out, also after an earlier restore of the same backup."""
    lowest, of_clock = number + LOST_SEQUENCES, unix_ms * SEQUENCES_PER_MS
    if lowest <= of_clock <= MAX_OF_CLOCK:
        return of_clock
    return _checked(key, lowest + secrets.randbelow(LOST_SEQUENCES), MAX_SEQUENCE)


def _raised_worker_number(number: int) -> int:
    lowest = number + LOST_WORKERS
    room = max(0, MAX_NUMBER - lowest)
    return _checked("worker_number", lowest + secrets.randbelow(room // SPREAD_WORKERS + 1), MAX_NUMBER)


def _checked(key: str, number: int, maximum: int) -> int:
    if number > maximum:
        raise StoreUnsupported(f"the store was restored too often: {key} would exceed {maximum}")
    return number
