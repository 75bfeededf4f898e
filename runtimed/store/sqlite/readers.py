"""Threads that read from the database on behalf of the event loop."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from runtimed.store.sqlite.connection import connect_reader, translate_errors

MAX_READERS = 2
"""Threads, and connections, that read at the same time."""

P = ParamSpec("P")
T = TypeVar("T")


class Readers:
    """A few threads with a connection each.

    A read must leave no statement open, because that would keep the log from being truncated. The constructor blocks
    and opens all files, because later there might be no descriptor left for them.
    """

    def __init__(self, database: Path) -> None:
        with contextlib.ExitStack() as opened:
            self._idle = [opened.enter_context(contextlib.closing(_connect(database))) for _ in range(MAX_READERS)]
            self._opened = opened.pop_all()
        self._pool = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="store-reader")

    async def run(self, read: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `read` in a thread with a connection and the arguments, and return its result.

        Raises:
            StoreError: SQLite failed.
        """

        def call() -> T:
            connection = self._idle.pop()
            try:
                with translate_errors():
                    return read(connection, *args, **kwargs)
            finally:
                self._idle.append(connection)

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Wait for running reads, then end the threads. Blocks."""
        self._pool.shutdown()
        self._opened.close()


def _connect(database: Path) -> apsw.Connection:
    """Open a connection with all its files. SQLite opens the write-ahead log with the first read."""
    connection = connect_reader(database)
    try:
        connection.pragma("schema_version")
    except BaseException:
        connection.close()
        raise
    return connection
