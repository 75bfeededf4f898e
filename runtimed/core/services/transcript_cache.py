"""Pages of transcripts that were read lately."""

from collections import OrderedDict

from runtimed.model.identity import WorkerId
from runtimed.model.transcript import TranscriptItem

Items = tuple[TranscriptItem, ...]
Key = tuple[WorkerId, int, int, int]

OVERHEAD = 300
"""The bytes of a page, and of an item, beside its content; about."""

SHARE = 8
"""A page that would take more than this part of the room is not kept."""


class TranscriptCache:
    """Holds at most about `max_bytes`, what was not asked for the longest going first.

    An entry never changes, so that a page holds as long as nothing was added behind it: `total` is how many entries
    the transcript has.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pages: OrderedDict[Key, tuple[int, Items]] = OrderedDict()

    def find(self, worker_id: WorkerId, start: int, limit: int, total: int) -> Items | None:
        """The page behind `start`, or None where it was not kept."""
        key = _key(worker_id, start, limit, total)
        found = self._pages.get(key)
        if found is None:
            return None
        self._pages.move_to_end(key)
        return found[1]

    def keep(self, worker_id: WorkerId, start: int, limit: int, total: int, items: Items) -> None:
        """Remember a page."""
        size = OVERHEAD + sum(len(item.content) + OVERHEAD for item in items)
        if size * SHARE > self._max_bytes:
            return
        self._drop(key := _key(worker_id, start, limit, total))
        self._pages[key] = (size, items)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._pages)))

    def forget(self, worker_id: WorkerId) -> None:
        """Let go of what was read of a Worker."""
        for key in [key for key in self._pages if key[0] == worker_id]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        size, _ = self._pages.pop(key, (0, ()))
        self._bytes -= size


def _key(worker_id: WorkerId, start: int, limit: int, total: int) -> Key:
    """A page is the same however many entries came behind its end."""
    return worker_id, start, limit, min(total, start + limit)
