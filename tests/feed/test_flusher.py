"""The flusher: a failing observer ends alone, and new events are written soon."""

import asyncio
from types import SimpleNamespace

import attrs
import pytest

from runtimed.feed import flusher as flushers
from runtimed.feed.encoding import Envelopes
from runtimed.feed.flusher import Flusher
from runtimed.feed.ring import Message, Ring
from runtimed.feed.view import EVERYTHING, Selection


@attrs.define(eq=False)
class RecordingObserver:
    """A synced observer that records what it is written, or fails."""

    failure: Exception | None = None
    sequence: int = 0
    selection: Selection = EVERYTHING
    is_full: bool = False
    written: bytes = b""
    ended: list[Exception] = attrs.field(factory=list)

    def write(self, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.written += data

    def unsync(self) -> None: ...

    def end(self, error: Exception) -> None:
        self.ended.append(error)


async def test_an_observer_whose_transport_fails_ends_alone() -> None:
    ring = Ring(0, 10_000)
    flusher = Flusher(ring, Envelopes())
    broken, sound = RecordingObserver(RuntimeError("the handler is closed")), RecordingObserver()
    for observer in (broken, sound):
        flusher.add(observer)
    for sequence in (1, 2):
        ring.append([Message(sequence, b"%d" % sequence, "alert", {})], sequence)
        flusher.schedule()
        async with asyncio.timeout(10):
            while sound.sequence < sequence:
                await asyncio.sleep(0.001)
    assert sound.written == b"1\n2\n"
    assert not sound.ended
    assert broken.ended == [broken.failure]


async def test_other_work_of_the_event_loop_does_not_lengthen_the_rest_after_a_flush(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1_000.0, thread=0.0, beside=0.0)

    def thread_time() -> float:
        clock.thread += clock.beside
        return float(clock.thread)

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    monkeypatch.setattr(flushers, "time", SimpleNamespace(thread_time=thread_time))
    ring = Ring(0, 10_000)
    flusher, observer = Flusher(ring, Envelopes()), RecordingObserver()
    flusher.add(observer)

    for sequence, beside in enumerate((1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0), 1):
        clock.beside = beside
        ring.append([Message(sequence, b"%d" % sequence, "alert", {})], sequence)
        flusher.schedule()
        for _ in range(10):
            await asyncio.sleep(0)

    assert observer.written == b"".join(b"%d\n" % sequence for sequence in range(1, 9))
