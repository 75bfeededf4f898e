"""When commits are synced to the disk, and the record of it for the next start."""

import logging
from typing import Literal

import apsw

from runtimed.store.records import META

Sync = Literal["full", "normal"]
"""`full` syncs before a commit is acknowledged, `normal` some time later: a power cut then loses the newest ones."""

log = logging.getLogger(__name__)


def apply_sync(connection: apsw.Connection, sync: Sync) -> None:
    """Set when commits are synced, and record it in the store for the next start."""
    if is_lazily_synced(connection) != (sync == "normal"):
        with connection:
            connection.execute(META.insert, META.row(("sync", sync)))
    connection.pragma("synchronous", sync)
    if sync == "normal":
        log.warning("sync=normal: a power cut loses the newest inputs, acknowledged ones too")


def is_lazily_synced(connection: apsw.Connection) -> bool:
    """Return whether the store was last written with `normal`. Then a power cut may have torn any part of the log."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get:
        return False
    return bool(connection.execute("SELECT 1 FROM meta WHERE key = 'sync' AND value = 'normal'").get)
