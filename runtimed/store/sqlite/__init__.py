"""The durable store: a Runtime in a folder, kept by SQLite."""

from runtimed.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
