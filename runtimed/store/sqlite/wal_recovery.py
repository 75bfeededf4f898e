"""Recovery of a write-ahead log that has damage before committed transactions.

SQLite would silently stop reading at the damage. Recovery rewrites the checksums of the log so that SQLite reads all
of it. Damaged pages are then found by the checksums of the rows: while the damaged log is kept, each start reads
every row to find the Workers that are damaged.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import attrs

from runtimed.errors import StoreCorrupt
from runtimed.model.identity import WorkerId
from runtimed.store.sqlite.check import Check
from runtimed.store.sqlite.connection import connect, connect_unchanging
from runtimed.store.sqlite.schema import check_version
from runtimed.store.sqlite.sync import is_lazily_synced
from runtimed.store.sqlite.wal import Damage, Log, log_of

KEPT = "-wal.damaged"
"""The suffix of a damaged log. Only the latest is kept."""

_DRAFT = "-wal.mended"

log = logging.getLogger(__name__)


@attrs.frozen
class Found:
    """Damage in a log. SQLite can read its first `readable` frames."""

    readable: int
    damage: Damage
    page_size: int

    def __str__(self) -> str:
        hidden = f"{self.damage.transactions} committed transactions"
        return f"the write-ahead log is damaged after frame {self.readable}, before {hidden}"


def kept_log(database: Path) -> Path:
    """Return the path at which the damaged log of a database is kept."""
    return Path(f"{database}{KEPT}")


def repair_log(database: Path) -> None:
    """Make a damaged log readable to its end, and keep a copy of it. SQLite handles a torn end itself.

    Raises:
        StoreCorrupt: The repaired log would not give a sound database. The log is unchanged.
    """
    found = find_damage(database)
    if found is None:
        return
    draft = Path(f"{database}{_DRAFT}")
    draft.unlink(missing_ok=True)
    try:
        _write_mended(database, found, draft)
        _check_structure(database, found, draft)
        _swap(log_of(database), draft, kept_log(database))
    except StoreCorrupt:
        with contextlib.closing(connect(database)) as connection:
            connection.wal_checkpoint()  # what can be read shall survive if the rest is given up
        raise
    finally:
        draft.unlink(missing_ok=True)
    fields = {"reason": found, "kept_as": kept_log(database).name}
    log.error("repaired a damaged write-ahead log; every row is checked now", extra=fields)


def rebuild_indexes(connection: apsw.Connection) -> None:
    """Rebuild the indexes if they do not match their tables.

    Raises:
        StoreCorrupt: They cannot be rebuilt.
    """
    if connection.execute("PRAGMA integrity_check(1)").get == "ok":
        return
    try:
        connection.execute("REINDEX")
    except (apsw.ConstraintError, apsw.CorruptError) as error:
        raise StoreCorrupt(f"the store is damaged: {error}; restore it from a copy") from error


def find_hit_workers(database: Path, connection: apsw.Connection) -> dict[WorkerId, str]:
    """Read every row and return the first problem of each damaged Worker.

    The copy of the damaged log is removed if no row is damaged.
    """
    check = Check()
    for step in check.rows():
        step(connection)
    for finding in check.findings:
        log.error("found damage", extra={"worker_id": finding.worker_id, "reason": finding.problem})
    if not check.findings:
        kept_log(database).unlink()
        log.warning("the damaged write-ahead log affects no stored row")
    return check.hit


def find_damage(database: Path) -> Found | None:
    """Return the damage in the log, or None. The torn end that a crash leaves is no damage. Changes nothing."""
    log = log_of(database)
    if not (log.exists() and log.stat().st_size and database.stat().st_size):
        return None
    with contextlib.closing(connect_unchanging(database)) as connection:
        if check_version(connection) == 0 or is_lazily_synced(connection):
            return None
        readable, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        page_size = connection.pragma("page_size")
    with log.open("rb") as file:
        damage = Log(file, page_size).damage(max(readable, 0))
    return Found(readable, damage, page_size) if damage else None


@contextlib.contextmanager
def mended(database: Path, found: Found) -> Iterator[apsw.Connection]:
    """Open a connection to the store as recovery would make it. Changes nothing in the store's folder.

    Raises:
        StoreCorrupt: Recovery is not possible.
    """
    with tempfile.TemporaryDirectory(prefix="runtimed-") as scratch:
        draft = Path(scratch) / f"{database.name}{_DRAFT}"
        _write_mended(database, found, draft)
        _check_structure(database, found, draft)
        with _overlaid(database, draft) as connection:
            yield connection


def _write_mended(database: Path, found: Found, draft: Path) -> None:
    with log_of(database).open("rb") as file:
        log = Log(file, found.page_size)
        if not log.plausible(found.damage):
            raise _beyond_repair(found)
        with open(draft, "xb", opener=_private) as target:
            log.write_mended(found.damage, target)
            target.flush()
            os.fsync(target.fileno())


def _check_structure(database: Path, found: Found, draft: Path) -> None:
    with _overlaid(database, draft) as connection:
        try:
            sound = connection.execute("PRAGMA quick_check(1)").get == "ok"
        except apsw.CorruptError:
            sound = False
    if not sound:
        raise _beyond_repair(found)


def _beyond_repair(found: Found) -> StoreCorrupt:
    return StoreCorrupt(
        f"{found}, which cannot be recovered; restore the store from a copy, or lose them by removing"
        " runtime.sqlite3-wal"
    )


def _swap(log: Path, draft: Path, kept: Path) -> None:
    """Replace the damaged log by the mended one atomically."""
    kept.unlink(missing_ok=True)
    os.link(log, kept)
    draft.rename(log)
    handle = os.open(log.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class _OtherLog(apsw.VFS):
    """The file system, except that another file takes the place of a database's log."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(name, "")
        self._log = str(log)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 SQLite's name
        """Open a file for SQLite, which gives its name and flags."""
        return apsw.VFSFile("", self._log if flags[0] & apsw.SQLITE_OPEN_WAL else name, flags)


@contextlib.contextmanager
def _overlaid(database: Path, log: Path) -> Iterator[apsw.Connection]:
    name = f"runtimed-{log}"
    other = _OtherLog(name, log)
    try:
        with contextlib.closing(connect_unchanging(database, vfs=name)) as connection:
            yield connection
    finally:
        other.unregister()
