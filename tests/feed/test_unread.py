"""The unread bytes of all observers together are bounded, including dismissed ones."""

import asyncio

import pytest

from runtimed.feed.unread import Unread

PIECE = 1_000


class FakeTransport(asyncio.WriteTransport):
    """A transport whose buffer is never sent."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.size, self.aborted = 0, True


class FakeObserver:
    """An observer whose peer never reads."""

    def __init__(self, unread: Unread) -> None:
        self.buffer = FakeTransport()
        self.transport: asyncio.WriteTransport = self.buffer
        self.dismissed = False
        self._unread = unread
        unread.enter(self)

    def dismiss(self, error: Exception) -> None:
        self.dismissed = True

    def write(self) -> None:
        self._unread.room -= PIECE
        if self._unread.room < 0:
            self._unread.recount(PIECE)
        if not self.dismissed:
            self.buffer.size += PIECE


@pytest.mark.parametrize("count", [1, 3, 8, 50])
async def test_observers_that_never_read_hold_no_more_than_the_limit_together(count: int) -> None:
    limit = 640_000
    unread = Unread(limit)
    everybody = present = [FakeObserver(unread) for _ in range(count)]
    most = 0

    for turn in range(20_000):
        present[turn % count].write()
        most = max(most, sum(one.buffer.size for one in everybody))
        gone = [one for one in present if one.dismissed]
        if gone:
            new = [FakeObserver(unread) for _ in gone]
            present = [one for one in present if not one.dismissed] + new
            everybody = [one for one in everybody if one.buffer.size] + new

    assert limit / 2 < most <= limit + limit // 64 + PIECE
    assert any(one.dismissed for one in everybody)
