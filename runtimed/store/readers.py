"""Threads that read, so that the event loop doesn't."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from runtimed.store.connection import connect_reader, translated

MAX_READERS = 2
"""Threads, and connections, that read at the same time."""

P = ParamSpec("P")
T = TypeVar("T")


class Readers:
    """A few threads, each with a connection of its own; a read is over when it returns, so that none pins the log."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._pool = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []

    async def run(self, read: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `read` returns when it is called in a thread. Raises the StoreError that SQLite's error means."""

        def call() -> T:
            with translated():
                return read(self._connection(), *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads once what they read is read. Blocks."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    def _connection(self) -> apsw.Connection:
        found: apsw.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = connect_reader(self._database)
            self._connections.append(found)
        return found
