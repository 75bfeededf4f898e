"""Recently read pages of transcripts."""

from collections import OrderedDict

from runtimed.model.identity import WorkerId
from runtimed.model.transcript import TranscriptItem

Items = tuple[TranscriptItem, ...]
Key = tuple[WorkerId, int, int, int]

OVERHEAD = 300
"""Bytes of a page, and of an item, beside its content; an estimate."""

SHARE = 8
"""A page larger than one SHAREth of the cache is not kept."""


class TranscriptCache:
    """Holds about `max_bytes` of pages; the least recently used go first.

    An entry never changes, so a page stays valid as long as its end does not move. `total` is the length of the
    transcript in entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pages: OrderedDict[Key, tuple[int, Items]] = OrderedDict()

    def find(self, worker_id: WorkerId, start: int, limit: int, total: int) -> Items | None:
        """Return the page after entry `start`, or None if it is not held."""
        key = _key(worker_id, start, limit, total)
        found = self._pages.get(key)
        if found is None:
            return None
        self._pages.move_to_end(key)
        return found[1]

    def keep(self, worker_id: WorkerId, start: int, limit: int, total: int, items: Items) -> None:
        """Hold a page."""
        size = OVERHEAD + sum(len(item.content) + OVERHEAD for item in items)
        if size * SHARE > self._max_bytes:
            return
        self._drop(key := _key(worker_id, start, limit, total))
        self._pages[key] = (size, items)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._pages)))

    def forget(self, worker_id: WorkerId) -> None:
        """Drop all pages of a Worker."""
        for key in [key for key in self._pages if key[0] == worker_id]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        size, _ = self._pages.pop(key, (0, ()))
        self._bytes -= size


def _key(worker_id: WorkerId, start: int, limit: int, total: int) -> Key:
    """Entries after the end of a page do not change it, so they are no part of its key."""
    return worker_id, start, limit, min(total, start + limit)
