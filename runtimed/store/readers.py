"""Threads that read, so that the event loop doesn't."""

import asyncio
import contextlib
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
    """A few threads and as many connections; a read is over when it returns, so that none pins the log.

    All files are opened at the start, which blocks: later there might be no descriptor left for them.
    """

    def __init__(self, database: Path) -> None:
        with contextlib.ExitStack() as opened:
            self._idle = [opened.enter_context(contextlib.closing(_connect(database))) for _ in range(MAX_READERS)]
            self._opened = opened.pop_all()
        self._pool = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="store-reader")

    async def run(self, read: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `read` returns when it is called in a thread. Raises the StoreError that SQLite's error means."""

        def call() -> T:
            connection = self._idle.pop()
            try:
                with translated():
                    return read(connection, *args, **kwargs)
            finally:
                self._idle.append(connection)

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads once what they read is read. Blocks."""
        self._pool.shutdown()
        self._opened.close()


def _connect(database: Path) -> apsw.Connection:
    """A connection that has its files open: SQLite opens the write-ahead log when it is first read."""
    connection = connect_reader(database)
    try:
        connection.pragma("schema_version")
    except BaseException:
        connection.close()
        raise
    return connection
