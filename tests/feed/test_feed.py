"""Readers of the feed: every event once and in order, from the ring or from the store."""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimed.core import Runtime
from runtimed.core.limits import Limits
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import CursorUnknownOrExpired, UpstreamClosed, WorkerNotFound, WrongRuntimeCursor
from runtimed.feed import Feed
from runtimed.feed.reader import Reader
from runtimed.feed.view import EVERYTHING
from runtimed.model.event import Snapshot, TextDone, ThinkingBlock, ThinkingDelta
from runtimed.model.identity import Cursor, EventCursor, RuntimeId, WorkerRef
from runtimed.store.memory import MemoryStore

from .conftest import FakeBackend, until, worker_of


async def said(runtime: Runtime, backend: FakeBackend, ref: WorkerRef, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await backend.sinks[ref.worker_id].emit(ThinkingDelta(str(number)))
    async with asyncio.timeout(10):
        while not (await thought(runtime, ref)).endswith(str(start + count - 1)):
            await asyncio.sleep(0)


async def thought(runtime: Runtime, ref: WorkerRef) -> str:
    """Return the thought that is in flight."""
    shown = (await runtime.snapshot(ref)).payload
    assert isinstance(shown, Snapshot)
    blocks = shown.in_flight.blocks if shown.in_flight else ()
    return "".join(block.text for block in blocks[:1] if isinstance(block, ThinkingBlock))


def envelopes(messages: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(message) for message in messages]


async def read_until(reader: Reader, cursor: str) -> list[bytes]:
    frames: list[bytes] = []
    async with asyncio.timeout(10):
        while not frames or envelopes(frames[-1:])[0]["cursor"] != cursor:
            frames += await reader.read()
    return frames


def newest(runtime: Runtime, ref: WorkerRef) -> Cursor:
    return runtime.worker(ref).last_cursor


async def test_a_reader_without_a_cursor_begins_behind_the_newest_event() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        ref = await worker_of(runtime)
        await said(runtime, backend, ref, 3)
        with Feed(runtime).open(ref) as reader:
            await said(runtime, backend, ref, 1, start=3)
            assert [event["payload"]["data"]["text"] for event in envelopes(await reader.read())] == ["3"]


async def test_a_reader_that_the_ring_cannot_serve_reads_from_the_store() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime, ring_bytes=2_000)
        ref = await worker_of(runtime)
        with feed.open(ref) as reader:
            await said(runtime, backend, ref, 300)
            frames = await read_until(reader, newest(runtime, ref))
    assert [event["payload"]["data"]["text"] for event in envelopes(frames)] == [str(n) for n in range(300)]


class HeldStore(MemoryStore):
    """A store whose reads of events wait for `may_read`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_read = asyncio.Event()

    async def read_events(self, *wanted: Any) -> Sequence[EncodedEvent]:
        self.asked += 1
        await self.may_read.wait()
        return await super().read_events(*wanted)

    async def read_all_events(self, *wanted: Any) -> Sequence[EncodedEvent]:
        self.asked += 1
        await self.may_read.wait()
        return await super().read_all_events(*wanted)


@pytest.mark.parametrize("of_all", [False, True])
async def test_a_page_without_a_cursor_begins_at_the_oldest_retained_event_though_trimming_overtakes_it(
    of_all: bool,
) -> None:
    backend, store = FakeBackend(), HeldStore()
    async with Runtime(store, backend, limits=Limits(max_events_per_worker=20)) as runtime:
        ref = await worker_of(runtime)
        await said(runtime, backend, ref, 10)
        reading = asyncio.create_task(Feed(runtime).page(None if of_all else ref, EVERYTHING, None, None))
        await until(lambda: store.asked)
        await said(runtime, backend, ref, 40, start=10)
        await until(lambda: runtime.retained_after(ref) >= 30)
        floor = runtime.retained_after(ref)
        store.may_read.set()
        found = [event.sequence for event in (await reading).events]
        assert floor < found[0] <= runtime.retained_after(ref) + 1
        assert found == list(range(found[0], found[0] + len(found)))


async def observed(feed: Feed, runtime: Runtime, ref: WorkerRef | None, sequence: int) -> tuple[int, list[str]]:
    """Read everything after a sequence until the feed closes."""
    seen: list[dict[str, Any]] = []
    with feed.open(ref, EventCursor(runtime.runtime_id, sequence)) as reader, contextlib.suppress(UpstreamClosed):
        while True:
            seen += envelopes(await reader.read())
    return sequence, [event["cursor"] for event in seen]


async def published(runtime: Runtime, ref: WorkerRef) -> list[EncodedEvent]:
    """Read all events of a Worker, page by page."""
    found: list[EncodedEvent] = []
    while page := await runtime.events(ref, found[-1].sequence if found else 0):
        found += page
    return found


@settings(max_examples=25)
@given(
    ring_bytes=st.integers(500, 6_000),
    bursts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    joins=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 300)), max_size=6),
)
async def test_every_reader_sees_every_event_once_whenever_it_joins(
    ring_bytes: int, bursts: list[int], joins: list[tuple[int, int]]
) -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime, ring_bytes=ring_bytes)
        ref = await worker_of(runtime)
        readers = []
        for index, burst in enumerate(bursts):
            starts = [min(sequence, runtime.head) for when, sequence in joins if when == index]
            readers += [asyncio.ensure_future(observed(feed, runtime, ref, start)) for start in starts]
            for _ in range(burst):
                await backend.sinks[ref.worker_id].emit(ThinkingDelta("x"))
            await asyncio.sleep(0)
        await backend.sinks[ref.worker_id].emit(TextDone("x"))
        async with asyncio.timeout(20):
            while runtime.worker(ref).transcript_len == 0:
                await asyncio.sleep(0)
        everything = await published(runtime, ref)
        feed.close()
        for sequence, seen in await asyncio.gather(*readers):
            assert seen == [f"wo_{event.sequence:016x}" for event in everything if event.sequence > sequence]


async def test_a_cursor_from_the_future_or_of_another_runtime_is_refused() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        with pytest.raises(CursorUnknownOrExpired), feed.open(ref, EventCursor(runtime.runtime_id, 1)):
            pass
        with pytest.raises(WrongRuntimeCursor), feed.open(ref, EventCursor(RuntimeId("other"), 0)):
            pass
        with pytest.raises(WorkerNotFound), feed.open(runtime.ref("worker-000000ff")):
            pass


async def test_a_closed_feed_ends_readers_once_they_have_read_everything() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        with feed.open(ref) as reader:
            await said(runtime, backend, ref, 2)
            feed.close()
            feed.close()
            assert len(await reader.read()) == 2
            with pytest.raises(UpstreamClosed):
                await reader.read()
        with pytest.raises(UpstreamClosed), feed.open(ref):
            pass
