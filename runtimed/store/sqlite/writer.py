"""The only thread that writes. It commits many Changes in one transaction."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

import apsw
import attrs

from runtimed.core.histogram import CommitHistograms
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import StoreError, StoreFull, StoreIo, StoreMissing
from runtimed.store.encoding import EncodedChange, Requests
from runtimed.store.sqlite.ballast import BALLAST_BYTES, MIN_ROOM_BYTES, RETRY_S, Ballast
from runtimed.store.sqlite.connection import FULL, lacks_room
from runtimed.store.sqlite.transaction import write

MAX_BATCH = 512
"""Changes in one transaction."""

CHECKPOINT_PAGES = 1_000
"""Pages in the write-ahead log above which it is copied into the database after each batch."""

MAX_LOG_PAGES = 16_000
"""Pages in the write-ahead log above which a checkpoint waits for readers, so that the log is truncated."""

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Job:
    """A queued change and the future of its caller."""

    change: EncodedChange
    future: asyncio.Future[Sequence[EncodedEvent]]


class Writer:
    """Writes changes in its own thread, in the order of the calls, many in one transaction.

    The queue is bounded by what the Runtime has in flight: one change of each Worker. A change that does not fit on
    the disk fails alone. After any other failure the writer refuses everything: it cannot know what reached the disk,
    and a second fsync could succeed falsely.

    Args:
        connection: The connection that writes. Nobody else may use it until close().
        loop: The event loop of the callers.
        numbers: The counters in `meta` and the size of the events, as loaded.
        requests: The stored requests by Worker number.
        ballast: The space that is reserved for a full disk.
        commits: Where batches are counted.

    Attributes:
        event_bytes: The size of the payloads of all events, as of the newest acknowledged change.
        requests: The requests of acknowledged changes, by Worker number.
        commit_cost_s: The processor time of this thread for one change of the newest acknowledged batch.
        is_full: Whether the disk has no space for changes, as of the newest batch or the last look.
        free_bytes: The bytes that the disk has left, as of the last look. None if nobody knows.
        size_bytes: The bytes of the database and its write-ahead log, as of the newest batch.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        loop: asyncio.AbstractEventLoop,
        numbers: Mapping[str, int],
        requests: Requests,
        ballast: Ballast,
        commits: CommitHistograms,
    ) -> None:
        self.event_bytes = numbers["event_bytes"]
        self.commit_cost_s = 0.0
        self.free_bytes = ballast.free_bytes()
        self.is_full = ballast.in_use or self._is_crowded
        self.size_bytes = 0
        self.requests = dict(requests)
        self._is_log_pinned = False
        self._connection = connection
        self._loop = loop
        self._numbers = dict(numbers)
        self._ballast = ballast
        self._commits = commits
        self._looked_at = time.monotonic()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._failure: StoreError | None = None
        self._full = False
        self._log_pages = 0
        self._files = [Path(connection.filename), Path(connection.filename_wal)]
        self._inodes = self._present_inodes()
        connection.set_wal_hook(self._note_log_pages)
        # A daemon that ends without close() must not wait for this thread for ever.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, change: EncodedChange) -> asyncio.Future[Sequence[EncodedEvent]]:
        """Queue a Change; called on the event loop, never after close()."""
        future: asyncio.Future[Sequence[EncodedEvent]] = self._loop.create_future()
        self._queue.put(Job(change, future))
        return future

    def pin_log(self, pinned: bool) -> None:
        """Note that a backup begins or ends. Meanwhile the log grows; the backup checkpoints it in the end."""
        self._is_log_pinned = pinned

    def close(self) -> None:
        """Write what is queued, empty the write-ahead log and end the thread. Blocks."""
        self._queue.put(None)
        self._thread.join()
        if self._failure is None:
            self._empty_log()

    def _run(self) -> None:
        while batch := self._next_batch():
            began, began_at = time.thread_time(), time.monotonic()
            outcomes = self._write(batch)
            ended_at, cost_s = time.monotonic(), (time.thread_time() - began) / len(batch)
            self._commits.observe(ended_at - began_at, len(batch))
            self._loop.call_soon_threadsafe(self._report, outcomes, self._numbers["event_bytes"], cost_s)
            if self._failure is None and self._log_pages >= CHECKPOINT_PAGES:
                self._tidy()
            if ended_at - self._looked_at >= RETRY_S:
                self._look_for_room()

    def _tidy(self) -> None:
        """Checkpoint the log."""
        if self._ballast.in_use:
            self._empty_log()
        elif not self._is_log_pinned:
            self._checkpoint(truncating=self._log_pages >= MAX_LOG_PAGES)

    def _next_batch(self) -> list[Job]:
        """Return up to MAX_BATCH queued changes, or an empty list after close()."""
        batch: list[Job] = []
        job = self._next_job()
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch
            try:
                job = self._queue.get_nowait()
            except Empty:
                return batch
        if batch:
            self._queue.put(None)
        return batch

    def _next_job(self) -> Job | None:
        """Return the next change. Until there is one, look every RETRY_S seconds whether the disk has space."""
        while True:
            try:
                return self._queue.get(timeout=RETRY_S)
            except Empty:
                self._look_for_room()

    def _look_for_room(self) -> None:
        """Restore the ballast if it is in use, and note how much space the disk has."""
        self._looked_at = time.monotonic()
        if self._ballast.in_use:
            self._ballast.take_back()
        self.free_bytes = self._ballast.free_bytes()
        self.is_full = self._ballast.in_use or self._is_crowded

    @property
    def _is_crowded(self) -> bool:
        return self.free_bytes is not None and self.free_bytes < MIN_ROOM_BYTES

    def _write(self, batch: Sequence[Job]) -> list[tuple[Job, StoreError | None]]:
        if self._ballast.in_use:
            self._ballast.take_back()
        if not self._ballast.in_use:
            refusal = self._try(batch)
            if not isinstance(refusal, StoreFull):
                self._note_room(full=False)
                return [(job, refusal) for job in batch]
            self._empty_log()  # what this frees may be all that was missing
        outcomes = [(job, self._try_alone(job)) for job in batch]
        self._note_room(full=any(isinstance(refusal, StoreFull) for _, refusal in outcomes))
        return outcomes

    def _note_room(self, *, full: bool) -> None:
        """Note whether the disk is full. Log when it becomes full, and when it has space again."""
        self.is_full = full or self._is_crowded
        if full != self._full:
            self._full = full
            log.warning("disk full: refusing requests that write" if full else "disk space is available again")

    def _try_alone(self, job: Job) -> StoreError | None:
        """Write one change to a full disk. Only a vital change may use the ballast."""
        if self._ballast.in_use and not job.change.vital:
            return self._failure or StoreFull(FULL)
        refusal = self._try([job])
        if isinstance(refusal, StoreFull) and job.change.vital:
            self._ballast.release()
            self._empty_log()
            refusal = self._try([job])
        return refusal

    def _try(self, jobs: Sequence[Job]) -> StoreError | None:
        if self._failure is not None:
            return self._failure
        try:
            self._transaction(jobs)
        except Exception as error:  # noqa: BLE001 whatever it was, what it left on the disk is unknown
            return StoreFull(FULL) if lacks_room(error, self._connection) else self._fail(error)
        return None

    def _transaction(self, batch: Sequence[Job]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            numbers = write(self._connection, [job.change for job in batch], self._numbers)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._check_files()
        self._numbers = numbers

    def _check_files(self) -> None:
        """Raise StoreMissing if a file was deleted or replaced: SQLite would keep writing and report success."""
        try:
            present = self._present_inodes()
        except OSError:
            present = []
        if present != self._inodes:
            raise StoreMissing("the store's files are gone")

    def _present_inodes(self) -> list[int]:
        """Return the inodes of the files, and note their size."""
        found = [file.stat() for file in self._files]
        self.size_bytes = sum([status.st_size for status in found])
        return [status.st_ino for status in found]

    def _empty_log(self) -> None:
        """Copy the log into the database and truncate it, unless the disk has no space for the database to grow.

        Does nothing while a backup reads: it would not shrink the log.
        """
        if self._is_log_pinned:
            return
        try:
            lacking = self._growth() - self._ballast.room()
        except (apsw.Error, OSError) as error:
            self._fail(error)
            return
        if lacking > 0 and not (lacking <= BALLAST_BYTES and self._ballast.release()):
            return
        self._checkpoint(truncating=True)
        if self._ballast.in_use:
            self._ballast.take_back()

    def _growth(self) -> int:
        """Return by how many bytes the database's file grows when the log is copied into it."""
        size: int = self._connection.pragma("page_count") * self._connection.pragma("page_size")
        return max(0, size - self._files[0].stat().st_size)

    def _checkpoint(self, *, truncating: bool) -> None:
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncating else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            self._connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return  # the log keeps it all, and the next batch tries again
        except apsw.Error as error:
            if not lacks_room(error, self._connection):
                self._fail(error)

    def _fail(self, error: Exception) -> StoreError:
        log.error("writing to the store failed, stopping", extra={"reason": error})
        reason = f"writing to the store failed: {error}"
        self._failure = error if isinstance(error, StoreMissing) else StoreIo(reason)
        return self._failure

    def _note_log_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _report(self, outcomes: Iterable[tuple[Job, StoreError | None]], event_bytes: int, cost_s: float) -> None:
        """Resolve the futures of the callers. Called on the event loop."""
        self.event_bytes, self.commit_cost_s = event_bytes, cost_s
        for job, refusal in outcomes:
            if refusal is None:
                self._note_requests(job.change)
            if job.future.done():
                continue
            if refusal is None:
                job.future.set_result(job.change.events)
            else:
                job.future.set_exception(type(refusal)(refusal.message))

    def _note_requests(self, change: EncodedChange) -> None:
        if change.request is not None:
            number, request = change.request
            self.requests[number] = request
        if change.deleted is not None:
            self.requests.pop(change.deleted, None)
