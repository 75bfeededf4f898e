"""The tables of the durable store, how they are written, and which version of them this is.

Every table has a checksum over the row's other columns (see `rows`). A Worker's request never changes and may be
large, so that it stands apart from its state, which is written with each Change.
"""

import apsw

from runtimed.errors import StoreUnsupported

VERSION = 1

TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE worker (
    number INTEGER PRIMARY KEY, request BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE state (
    worker INTEGER PRIMARY KEY, status TEXT NOT NULL, transcript_len INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL, since INTEGER NOT NULL, activity TEXT NOT NULL,
    execution BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY, worker INTEGER NOT NULL, since INTEGER NOT NULL,
    transcript_len INTEGER NOT NULL, activity TEXT NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX event_worker ON event (worker);
CREATE TABLE entry (
    event INTEGER PRIMARY KEY, worker INTEGER NOT NULL, sequence INTEGER NOT NULL,
    role TEXT NOT NULL, content BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entry_worker ON entry (worker, sequence);
CREATE TABLE bundle (
    id TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE diagnostic (
    number INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL
) STRICT;
"""

WRITES = {
    "worker": """
        INSERT INTO worker VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE
        SET request = excluded.request, checksum = excluded.checksum WHERE checksum != excluded.checksum
    """,
    "state": "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "event": "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
    "entry": "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)",
    "bundle": "INSERT OR REPLACE INTO bundle VALUES (?, ?, ?)",
    "diagnostic": "INSERT INTO diagnostic (body, checksum) VALUES (?, ?)",
}
WRITE_META = "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)"


def prepare(connection: apsw.Connection) -> None:
    """Make the tables where there are none. Raises StoreUnsupported for those of a newer version or of others."""
    version = connection.pragma("user_version")
    if version > VERSION:
        raise StoreUnsupported(
            f"the store was written by a newer version of runtimed (schema {version}, this one knows up to {VERSION})"
        )
    if version == VERSION:
        return
    if connection.execute("SELECT 1 FROM sqlite_schema").get:
        raise StoreUnsupported("the database in the store was not made by runtimed: expected a folder of its own")
    with connection:
        connection.execute(TABLES)
        connection.pragma("user_version", VERSION)
