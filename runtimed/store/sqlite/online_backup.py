"""A backup of a store in use."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import apsw

from runtimed.errors import RuntimeStopped, StoreFull, StoreIo
from runtimed.store.archive import archive
from runtimed.store.sqlite.connection import connect, connect_reader, lacks_room, translate_errors
from runtimed.store.sqlite.copying import copy_database
from runtimed.store.sqlite.writer import CHECKPOINT_PAGES

SUFFIX = "-backup"
"""Where the copy of a database is made: beside it, under its name and this."""

BLOCK_BYTES = 256 * 1024

MAX_CHECKPOINTS = 8
"""How often the log is copied into the database after a copy. It goes on growing meanwhile."""

T = TypeVar("T")


class OnlineBackup:
    """Copies the database in a thread of its own, then reads the copy, which has no name any more.

    Args:
        database: The database.
        with_folders: Whether the backup is an archive that holds the folders of Workers too.
        pin: Called with True before the copy is made and with False after it. Meanwhile nobody else may copy the
            write-ahead log into the database.
        is_full: Returns whether the disk is full. The backup is given up then, which frees its space.
        ended: Called on the event loop once the backup is closed.

    Attributes:
        size_bytes: Its size; None for an archive.
    """

    def __init__(
        self,
        database: Path,
        *,
        with_folders: bool,
        pin: Callable[[bool], None],
        is_full: Callable[[], bool],
        ended: Callable[[], None],
    ) -> None:
        self.size_bytes: int | None = None
        self._database = database
        self._with_folders = with_folders
        self._pin = pin
        self._is_full = is_full
        self._ended = ended
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-backup")
        self._given_up = threading.Event()
        self._copied: BinaryIO | None = None
        self._blocks: Generator[bytes, None, None] | None = None
        self._closing: asyncio.Future[None] | None = None

    async def make(self) -> None:
        """Copy the database. On failure the backup is closed.

        Raises:
            StoreFull: There is too little space for the copy, or there is meanwhile.
            Unavailable: Changes come too fast.
        """
        try:
            await self._run(self._make)
        except BaseException:
            await self.close()
            raise

    async def read(self) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            StoreFull: The disk is full meanwhile.
            StoreIo: The copy cannot be read.
        """
        return await self._run(self._next_block)

    async def close(self) -> None:
        """Give the copy up or remove it, and end the thread. Does nothing if it is closed."""
        if self._closing is None:
            self._given_up.set()
            self._closing = asyncio.get_running_loop().run_in_executor(self._pool, self._close)
            self._pool.shutdown(wait=False)
            self._closing.add_done_callback(lambda _: self._ended())
        await asyncio.shield(self._closing)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closing is not None:
            raise RuntimeStopped
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _make(self) -> None:
        self._copied = copy = self._copy()
        if self._with_folders:
            self._blocks = archive(copy, self._database.parent)
        else:
            self.size_bytes = os.fstat(copy.fileno()).st_size
            self._blocks = _blocks(copy)

    def _copy(self) -> BinaryIO:
        """Return an open copy of the database; nothing has to be removed any more."""
        target = copy_of(self._database)
        self._pin(True)
        try:
            with translate_errors(), _unlinked(target):
                self._fill(target)
                return target.open("rb")
        finally:
            self._pin(False)

    def _fill(self, target: Path) -> None:
        try:
            with contextlib.closing(connect_reader(self._database)) as source:
                copy_database(source, target, self._check_progress)
        finally:
            _shorten_log(self._database)

    def _check_progress(self, _copied: int, _pages: int) -> None:
        if self._given_up.is_set():
            raise RuntimeStopped
        self._check_disk()

    def _check_disk(self) -> None:
        if self._is_full():
            raise StoreFull("the disk is full: the backup was given up; free some space and try again")

    def _next_block(self) -> bytes:
        self._check_disk()
        try:
            return next(self._blocks, b"") if self._blocks is not None else b""
        except OSError as error:
            raise StoreIo(f"the backup cannot be read: {error.strerror}") from error

    def _close(self) -> None:
        if self._blocks is not None:
            self._blocks.close()
        if self._copied is not None:
            self._copied.close()


def copy_of(database: Path) -> Path:
    """Return the path at which a copy of a database is made. A daemon that is killed may leave one there."""
    return Path(f"{database}{SUFFIX}")


@contextlib.contextmanager
def _unlinked(file: Path) -> Iterator[None]:
    """Remove the name of a file in the end, whatever happens."""
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _shorten_log(database: Path) -> None:
    """Copy most of the log into the database, so that the writer has not to do it between two commits."""
    with contextlib.closing(connect(database)) as connection:
        for _ in range(MAX_CHECKPOINTS):
            try:
                pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                if isinstance(error, apsw.BusyError) or lacks_room(error, connection):
                    return  # the writer does it
                raise
            if pages - copied < CHECKPOINT_PAGES:
                return


def _blocks(file: BinaryIO) -> Generator[bytes, None, None]:
    while block := file.read(BLOCK_BYTES):
        yield block
