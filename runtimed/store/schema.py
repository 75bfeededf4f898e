"""The tables of the durable store, how they are written, and which version of them this is.

Every table has a checksum over the row's other columns (see `rows`). A Worker's request never changes and may be
large, so that it stands apart from its state, which is written with each Change. Statuses, activities and roles are
numbers, as `rows` lists them.
"""

import contextlib
import logging
import time
from collections.abc import Iterator

import apsw

from runtimed.errors import StoreUnsupported
from runtimed.store import migration

VERSION = 4

_log = logging.getLogger(__name__)

TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE worker (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL, checksum INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE state (
    worker INTEGER PRIMARY KEY, status INTEGER NOT NULL, transcript_len INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL, since INTEGER NOT NULL, activity INTEGER NOT NULL,
    retained INTEGER NOT NULL, execution BLOB NOT NULL, checksum INTEGER NOT NULL,
    waiting BLOB NOT NULL DEFAULT x'', last_event_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY, worker INTEGER NOT NULL, previous INTEGER NOT NULL, since INTEGER NOT NULL,
    transcript_len INTEGER NOT NULL, activity INTEGER NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX event_worker ON event (worker);
CREATE TABLE floor (
    worker INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, transcript_len INTEGER NOT NULL,
    activity INTEGER NOT NULL, in_flight BLOB NOT NULL, checksum INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX floor_sequence ON floor (sequence);
CREATE TABLE entry (
    event INTEGER PRIMARY KEY, worker INTEGER NOT NULL, sequence INTEGER NOT NULL,
    role INTEGER NOT NULL, content BLOB NOT NULL, checksum INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX entry_worker ON entry (worker, sequence);
CREATE TABLE bundle (
    id TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE remark (
    number INTEGER PRIMARY KEY, worker INTEGER, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE runtime_event (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, worker INTEGER, event INTEGER, unix_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE mark (
    sequence INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE deleted (
    worker INTEGER PRIMARY KEY, checksum INTEGER NOT NULL
) STRICT;
"""

WRITES = {
    "worker": "INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?)",
    "state": "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "event": "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "entry": "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)",
    "bundle": "INSERT OR REPLACE INTO bundle VALUES (?, ?, ?)",
    "remark": "INSERT INTO remark VALUES (?, ?, ?, ?)",
    "runtime_event": "INSERT INTO runtime_event VALUES (?, ?, ?, ?, ?, ?)",
    "floor": "INSERT OR REPLACE INTO floor VALUES (?, ?, ?, ?, ?, ?, ?)",
    "mark": "INSERT OR REPLACE INTO mark VALUES (?, ?, ?)",
    "deleted": "INSERT OR REPLACE INTO deleted VALUES (?, ?)",
}
WRITE_META = "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)"


def check_version(connection: apsw.Connection) -> int:
    """The version of the tables, 0 where there are none. Raises StoreUnsupported for a newer one and for others."""
    version: int = connection.pragma("user_version")
    if version > VERSION:
        raise StoreUnsupported(
            f"the store was written by a newer version of runtimed (schema {version}, this one knows up to {VERSION})"
        )
    if not version and connection.execute("SELECT 1 FROM sqlite_schema").get:
        raise StoreUnsupported("the database in the store was not made by runtimed: expected a folder of its own")
    return version


def prepare(connection: apsw.Connection, unix_ms: int) -> None:
    """Make the tables, or bring those of an earlier version forward, in one transaction; `unix_ms` is the time."""
    version = check_version(connection)
    if version == VERSION:
        return
    with _told(connection, version) if version else contextlib.nullcontext(), connection:
        if version:
            migration.replace_misfits(connection)
        if version in (0, 1):
            _make_tables(connection, version)
        if version == 2:
            migration.add_waiting(connection)
        if version in (2, 3):
            migration.add_times(connection)
        if version:
            migration.set_times(connection, unix_ms)
        connection.pragma("user_version", VERSION)
    with contextlib.suppress(apsw.BusyError, apsw.FullError):  # the log keeps it all
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


@contextlib.contextmanager
def _told(connection: apsw.Connection, version: int) -> Iterator[None]:
    """Log that a store is brought forward, which may take a while, and that it was."""
    counts = [
        connection.execute(f"SELECT count(*) FROM {table}").get  # noqa: S608
        for table in ("worker", "event", "entry")
    ]
    what = f"from version {version} to {VERSION}: {counts[0]} Workers, {counts[1]} events, {counts[2]} entries"
    begun = time.monotonic()
    _log.info("bringing the store forward %s", what)
    yield
    _log.info("brought the store forward %s, in %.1f s", what, time.monotonic() - begun)


def _make_tables(connection: apsw.Connection, version: int) -> None:
    if version == 1:
        migration.set_aside(connection)
    connection.execute(TABLES)
    if version == 1:
        migration.bring_forward(connection)
