"""A backup of a store that no daemon holds."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from runtimed.errors import StoreUnsupported
from runtimed.store.data_dir import DataDir, sync_folder
from runtimed.store.factories import Inspection, Progress
from runtimed.store.sqlite.check import Check
from runtimed.store.sqlite.connection import connect_unchanging, translate_errors
from runtimed.store.sqlite.copying import copy_database
from runtimed.store.sqlite.inspection import look
from runtimed.store.sqlite.schema import check_version
from runtimed.store.sqlite.wal_recovery import find_damage, mended


def back_up(folder: Path, file: Path, progress: Progress) -> Inspection:
    """Copy the database of a store into a file, as the next start would find it, and read the whole copy.

    Nothing in the store is changed.

    The file appears whole, or not at all, and replaces one that is there. Blocks until it is on the disk.

    Args:
        folder: The folder of the store.
        file: Where the backup goes.
        progress: Called with how many pages are copied, and how many there are.

    Returns:
        What is in the copy. There is one even if something is wrong with it.

    Raises:
        StoreInUse: A daemon holds the store.
        StoreUnsupported: The folder holds no store, or one of a newer version, or the file cannot be written.
        StoreCorrupt: The write-ahead log is damaged beyond repair.
    """
    with DataDir(folder).locked() as database, translate_errors(), _as_at_start(database) as source:
        check_version(source)
        place = _place_of(file, database.parent)
        draft = place.with_name(f".{place.name}.partial")
        copy_database(source, draft, progress)
        try:
            check, remarks = Check(), list[str]()
            with contextlib.closing(connect_unchanging(draft)) as copy:
                look(copy, check, remarks)
            _sync(draft)
            draft.rename(place)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(place.parent)
    return Inspection(check.result(), tuple(remarks))


@contextlib.contextmanager
def _as_at_start(database: Path) -> Iterator[apsw.Connection]:
    damage = find_damage(database)
    if damage is not None:
        with mended(database, damage) as connection:
            yield connection
        return
    with contextlib.closing(connect_unchanging(database)) as connection:
        yield connection


def _place_of(file: Path, folder: Path) -> Path:
    """Return the path of a file without links, which SQLite does not follow, other than at its end.

    Raises:
        StoreUnsupported: No file can be made there, or it would be inside of the store.
    """
    parent = Path(os.path.realpath(file.parent))
    if (file.exists() and not file.is_file()) or not os.access(parent, os.W_OK | os.X_OK):
        raise StoreUnsupported(f"{file}: expected a file in a folder that this user can write")
    if parent.is_relative_to(folder):
        raise StoreUnsupported(f"{file}: expected a file outside of the store")
    return parent / file.name


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
