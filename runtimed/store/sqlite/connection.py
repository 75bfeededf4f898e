"""Connections to the store's database, and the translation of their errors."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import apsw

from runtimed.errors import StoreCorrupt, StoreFull, StoreIo, StoreMissing, StoreUnsupported
from runtimed.store.sqlite.wal import log_of

BUSY_MS = 2_000
"""How long a statement waits for a checkpoint or a read. No other process has the database open."""

MAX_IDLE_LOG_BYTES = 16 * 1024 * 1024
"""The size to which a write-ahead log is truncated after a large change made it grow."""

FULL = "the disk is full: nothing was stored; free some space and try again"


def connect(database: Path) -> apsw.Connection:
    """Open a connection that writes. A commit is on the disk when it returns. The owner runs the checkpoints."""
    connection = _open(database, apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.pragma("synchronous", "FULL")
        connection.pragma("foreign_keys", "OFF")
        connection.pragma("journal_size_limit", MAX_IDLE_LOG_BYTES)
        connection.pragma("wal_autocheckpoint", 0)
    except BaseException:
        connection.close()
        raise
    return connection


def enable_wal(connection: apsw.Connection) -> None:
    """Turn the write-ahead log on.

    Raises:
        StoreUnsupported: The file system has no shared memory.
    """
    if connection.pragma("journal_mode", "WAL") != "wal":
        raise StoreUnsupported("the store's file system has no shared memory: expected a local disk")


def connect_reader(database: Path) -> apsw.Connection:
    """Open a connection that only reads."""
    return _open(database, apsw.SQLITE_OPEN_READONLY)


def connect_copy(database: Path) -> apsw.Connection:
    """Open a connection to a new file that is thrown away if anything fails: nothing is synced, nothing undone."""
    connection = _open(database, apsw.SQLITE_OPEN_READWRITE)
    connection.pragma("journal_mode", "OFF")
    connection.pragma("synchronous", "OFF")
    return connection


def connect_unchanging(database: Path, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that changes and creates no file. Nothing else may have the database open meanwhile."""
    log = log_of(database)
    if not log.exists() or not log.stat().st_size:  # SQLite would make one
        name = f"file:{quote(str(database))}?immutable=1"
        return _open(name, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs)
    connection = _open(database, apsw.SQLITE_OPEN_READWRITE, vfs)
    connection.pragma("locking_mode", "EXCLUSIVE")  # the index of the log stays in memory
    connection.pragma("query_only", "ON")
    return connection


def _open(database: Path | str, flags: int, vfs: str | None = None) -> apsw.Connection:
    connection = apsw.Connection(str(database), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW, vfs=vfs)
    connection.set_busy_timeout(BUSY_MS)
    connection.pragma("temp_store", "MEMORY")
    connection.pragma("cell_size_check", "ON")
    # The writer checkpoints by itself; after a failed write nothing may touch the files any more.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def lacks_room(error: Exception, connection: apsw.Connection) -> bool:
    """Return whether a write failed only because the disk or a quota is full. A quota shows as an I/O error."""
    over_quota = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_WRITE
    return isinstance(error, apsw.FullError) or (over_quota and connection.system_errno == errno.EDQUOT)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise SQLite's errors as the matching StoreErrors."""
    try:
        yield
    except apsw.CantOpenError as error:
        raise StoreMissing(f"the store's files cannot be opened: {error}") from error
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"the store is damaged: {error}") from error
    except apsw.FullError as error:
        raise StoreFull(FULL) from error
    except (apsw.Error, OSError) as error:
        raise StoreIo(f"the store cannot be read: {error}") from error
