"""When a commit is synced, and what that lets the next start expect of the write-ahead log."""

import logging
from typing import Literal

import apsw

from runtimed.store.rows import meta_row
from runtimed.store.schema import WRITE_META

Sync = Literal["full", "normal"]
"""Before it returns, or some time later: then a power cut loses the newest ones."""

_log = logging.getLogger(__name__)


def use_sync(connection: apsw.Connection, sync: Sync) -> None:
    """Sync commits like this from now on, and keep in the store that they are."""
    if lazily_synced(connection) != (sync == "normal"):
        with connection:
            connection.execute(WRITE_META, meta_row("sync", sync))
    connection.pragma("synchronous", sync)
    if sync == "normal":
        _log.warning("sync=normal: a power cut loses the newest inputs, acknowledged ones too")


def lazily_synced(connection: apsw.Connection) -> bool:
    """Whether the store was last written with `normal`, so that a power cut may have torn any part of the log."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get:
        return False
    return bool(connection.execute("SELECT 1 FROM meta WHERE key = 'sync' AND value = 'normal'").get)
