"""The version of the tables on disk, and their creation."""

import contextlib
import logging
import time
from collections.abc import Iterator

import apsw

from runtimed import __version__
from runtimed.errors import StoreUnsupported, printable
from runtimed.store import records
from runtimed.store.records import META
from runtimed.store.sqlite import migration

VERSION = 6

PROGRAM = "program"
"""The key in `meta` of the version of runtimed that wrote the store last."""

_TABLE_NAMES = "SELECT name FROM sqlite_schema WHERE type = 'table'"

log = logging.getLogger(__name__)


def check_version(connection: apsw.Connection) -> int:
    """Return the version of the tables, 0 if there are none.

    Raises:
        StoreUnsupported: The version is newer, or the database was not made by runtimed.
    """
    version: int = connection.pragma("user_version")
    if version > VERSION:
        raise StoreUnsupported(
            f"the store was written by a newer version of runtimed (schema {version}, this one knows up to"
            f" {VERSION}): start {_writer(connection)} again, or restore a backup that was made before the upgrade"
        )
    if not version and connection.execute("SELECT 1 FROM sqlite_schema").get:
        raise StoreUnsupported("the database in the store was not made by runtimed: expected a folder of its own")
    return version


def note_program(connection: apsw.Connection) -> None:
    """Record which version of runtimed writes the store, so that an earlier one can name it."""
    if connection.execute("SELECT value FROM meta WHERE key = ?", (PROGRAM,)).get != __version__:
        with contextlib.suppress(apsw.FullError), connection:  # nothing but the text of an error depends on it
            connection.execute(META.insert, META.row((PROGRAM, __version__)))


def _writer(connection: apsw.Connection) -> str:
    """Return which program wrote a store of a newer version."""
    found = None
    with contextlib.suppress(apsw.SQLError):  # newer tables may differ
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (PROGRAM,)).get
    return f"runtimed {printable(found)}" if isinstance(found, str) else "that version"


def create_or_migrate(connection: apsw.Connection, unix_ms: int) -> None:
    """Create the tables, or migrate those of an earlier version, in one transaction.

    Args:
        connection: A connection that writes.
        unix_ms: The time for rows of earlier versions without a better one, as Unix time in milliseconds.
    """
    version = check_version(connection)
    if version == VERSION:
        return
    with _told(connection, version) if version else contextlib.nullcontext(), connection:
        if version in {1, 2, 3}:
            migration.replace_misfits(connection)
        if version == 1:
            migration.set_aside(connection)
        _create_missing_tables(connection)
        if version == 1:
            migration.bring_forward(connection)
        if version == 2:
            migration.add_waiting(connection)
        if version in {2, 3}:
            migration.add_times(connection)
        migration.add_clients(connection)
        if version in {1, 2, 3}:
            migration.set_times(connection, unix_ms)
        connection.pragma("user_version", VERSION)
    with contextlib.suppress(apsw.BusyError, apsw.FullError):  # the log keeps it all
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


@contextlib.contextmanager
def _told(connection: apsw.Connection, version: int) -> Iterator[None]:
    """Log the beginning and the end of a migration, which may take a while."""
    counts = [
        connection.execute(f"SELECT count(*) FROM {table}").get  # noqa: S608
        for table in ("worker", "event", "entry")
    ]
    fields = {"from_version": version, "to_version": VERSION}
    fields |= {"workers": counts[0], "events": counts[1], "entries": counts[2]}
    begun = time.monotonic()
    log.info("migrating the store: earlier versions of runtimed cannot open it any more", extra=fields)
    yield
    log.info("migrated the store", extra=fields | {"seconds": round(time.monotonic() - begun, 1)})


def _create_missing_tables(connection: apsw.Connection) -> None:
    present = {name for (name,) in connection.execute(_TABLE_NAMES)}
    for table in records.TABLES:
        if table.name not in present:
            connection.execute(table.create)
