"""The idempotency keys of requests that were carried out. Pure."""

from collections.abc import Iterable
from itertools import takewhile

from runtimed.core.state.change import IdempotencyRecord

KEPT_MS = 24 * 3_600_000
"""How long a key is kept, in milliseconds."""


class IdempotencyLog:
    """The records of the newest keys by their scope, at most `most`.

    Attributes:
        newest: The highest number of a record so far, 0 for none.
        forgotten: The records up to this number are no longer stored.
    """

    def __init__(self, records: Iterable[IdempotencyRecord], most: int) -> None:
        """Take over the records of the store, oldest first."""
        self.newest = 0
        self.forgotten = 0
        self._most = most
        self._records: dict[bytes, IdempotencyRecord] = {}
        self.keep(records)

    def __len__(self) -> int:
        return len(self._records)

    def find(self, scope: bytes, unix_ms: int) -> IdempotencyRecord | None:
        """Return the record of a scope, unless it is older than KEPT_MS at this Unix time in milliseconds."""
        record = self._records.get(scope)
        return None if record is None or _is_expired(record, unix_ms) else record

    def keep(self, records: Iterable[IdempotencyRecord]) -> None:
        """Add newer records; the oldest go if there are too many. An expired one of the same scope is replaced."""
        for record in records:
            self.newest = max(self.newest, record.number)
            self._records.pop(record.scope, None)
            self._records[record.scope] = record
            if len(self._records) > self._most:
                del self._records[next(iter(self._records))]

    @property
    def surplus(self) -> int:
        """About how many records are stored beyond those in memory."""
        return self.newest - self.forgotten - len(self._records)

    def due(self, unix_ms: int) -> int:
        """Drop the records that have expired at this Unix time in milliseconds.

        Returns:
            The number up to which no record is needed any more.
        """
        expired = [*takewhile(lambda record: _is_expired(record, unix_ms), self._records.values())]
        for record in expired:
            del self._records[record.scope]
        oldest = next(iter(self._records.values()), None)
        return self.newest if oldest is None else oldest.number - 1

    def note_forgotten(self, upto: int) -> None:
        """Note that the records up to this number are no longer stored."""
        self.forgotten = upto


def _is_expired(record: IdempotencyRecord, unix_ms: int) -> bool:
    return unix_ms - record.unix_ms >= KEPT_MS
