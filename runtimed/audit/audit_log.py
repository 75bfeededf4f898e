"""The audit log and the one thread that writes it."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from runtimed.audit.destinations import JOURNAL_SOCKET, AuditPolicy, Destination, NotWritten, open_destination
from runtimed.audit.record import AuditRecord

MAX_QUEUED = 10_000
"""The records that wait to be written. Beyond that new ones are lost, and counted."""

MAX_BATCH = 256
"""The records that are written at once."""

RETRY_S = 1.0
"""The pause after a write that failed."""

SILENCE_S = 60.0
"""The shortest time between two log records about lost records, or about writes that fail."""

CLOSE_TIMEOUT_S = 10.0
"""How long `close` waits for the thread."""

log = logging.getLogger(__name__)


class AuditLog:
    """Writes records in the order of the calls, off the event loop.

    A record that cannot be written waits until it can be. If MAX_QUEUED wait already, new ones are lost: `failed`
    counts them, and a line in the audit log says how many there were. Records are not synced to the disk one by one:
    a power cut may lose the newest ones.

    Attributes:
        failed: How many records were lost.
    """

    def __init__(self, policy: AuditPolicy, journal: Path = JOURNAL_SOCKET) -> None:
        """Open the log. Blocks briefly.

        Args:
            policy: Where the lines go.
            journal: The socket of the journal.

        Raises:
            ConfigurationError: The file or the journal cannot be opened.
        """
        self.failed = 0
        self._policy = policy
        self._journal = journal
        self._destination = open_destination(policy, journal)
        self._reopened: deque[Destination | None] = deque()
        self._queue: SimpleQueue[AuditRecord | None] = SimpleQueue()
        self._batch: list[AuditRecord] = []
        self._told = 0
        self._problem: str | None = None
        self._logged_at: dict[str, float] = {}
        self._is_closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()

    def record(self, record: AuditRecord) -> None:
        """Queue a record. Does nothing if there is no audit log."""
        if not self.is_on:
            return
        if self._is_crowded:
            self._lose(1)
        else:
            self._queue.put(record)

    @property
    def is_on(self) -> bool:
        """Whether there is an audit log. `prepare` may change it."""
        return bool(self._policy.file)

    @property
    def problem(self) -> str | None:
        """Why the daemon does not count as ready; None while it does, or if the log is not required."""
        if not self._policy.required:
            return None
        if not self._is_closing and not self._thread.is_alive():
            return "audit_failed: the thread that writes the audit log has ended"
        if self._problem is not None:
            return f"audit_failed: the audit log cannot be written: {self._problem}"
        return "audit_failed: the audit log is written too slowly" if self._is_crowded else None

    async def prepare(self, policy: AuditPolicy) -> Callable[[], None]:
        """Open the file again, because it was renamed, or open another one.

        Args:
            policy: Where the lines go.

        Returns:
            What has the log write there from then on, the records that wait too.

        Raises:
            ConfigurationError: The file or the journal cannot be opened. Nothing has changed.
        """
        destination = await asyncio.to_thread(open_destination, policy, self._journal)

        def apply() -> None:
            self._reopened.append(destination)
            self._policy = policy
            self._rouse()

        return apply

    async def close(self) -> None:
        """Write what waits, if it can be written, and end the thread. May be called again."""
        self._is_closing = True
        self._rouse()
        await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT_S)
        unwritten = self._take_all()
        if unwritten:
            self._lose(unwritten)

    @property
    def _is_crowded(self) -> bool:
        return self._queue.qsize() >= MAX_QUEUED

    def _lose(self, count: int) -> None:
        self.failed += count
        if self._is_due("lost"):
            reason = self._problem or "too many wait"
            log.error("audit records are lost", extra={"count": self.failed, "reason": reason})

    def _is_due(self, kind: str) -> bool:
        """Return whether SILENCE_S have passed since this was last asked about log records of this kind."""
        now = time.monotonic()
        is_due = now - self._logged_at.get(kind, -SILENCE_S) >= SILENCE_S
        if is_due:
            self._logged_at[kind] = now
        return is_due

    def _rouse(self) -> None:
        """Have the thread look again, whether it waits for a record or for its next attempt."""
        self._wake.set()
        self._queue.put(None)

    def _take_all(self) -> int:
        """Remove the records that are still here, once the thread has ended, and return how many there were."""
        count = len(self._batch)
        self._batch = []
        while True:
            try:
                count += self._queue.get_nowait() is not None
            except Empty:
                return count

    def _run(self) -> None:
        """Write records until the log closes. Runs in the thread."""
        while True:
            if not self._batch:
                self._fill_batch()
            self._change_destination()
            if self._batch and not self._write_batch():
                if self._is_closing:
                    break
                self._wake.wait(RETRY_S)
                self._wake.clear()
            elif not self._batch and self._is_closing and self._queue.empty():
                break
        self._close_destination()

    def _fill_batch(self) -> None:
        """Wait for records, or for `_rouse`, and take up to MAX_BATCH of them."""
        found = self._queue.get()
        while found is not None:
            self._batch.append(found)
            if len(self._batch) == MAX_BATCH:
                return
            try:
                found = self._queue.get_nowait()
            except Empty:
                return

    def _change_destination(self) -> None:
        while self._reopened:
            self._close_destination()
            self._destination = self._reopened.popleft()

    def _close_destination(self) -> None:
        try:
            if self._destination is not None:
                self._destination.close()
        except OSError as error:
            log.error("the newest lines of the audit log may not be on the disk", extra={"reason": error})

    def _write_batch(self) -> bool:
        """Write the batch, and before it how many records were lost. Returns whether all of it is written."""
        lost = self.failed - self._told
        gap = [AuditRecord(time.time_ns() // 1_000_000, f"lost {lost}").line()] if lost else []
        lines = [*gap, *(record.line() for record in self._batch)]
        try:
            if self._destination is not None:
                self._destination.write(lines)
        except Exception as error:  # noqa: BLE001 no failure may end the thread while records wait
            self._note_failure(str(error) or type(error).__name__)
            written = error.written if isinstance(error, NotWritten) else 0
        else:
            self._note_success()
            written = len(lines)
        if written:
            self._told += lost
            del self._batch[: written - len(gap)]
        return written == len(lines)

    def _note_failure(self, reason: str) -> None:
        if self._is_due("failing"):
            waiting = len(self._batch) + self._queue.qsize()
            log.error("cannot write the audit log: its records wait", extra={"reason": reason, "count": waiting})
        self._problem = reason

    def _note_success(self) -> None:
        if self._problem is not None:
            log.warning("the audit log is written again")
        self._problem = None
