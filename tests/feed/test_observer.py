"""Observers: synced and unsynced, they are written each event exactly once and in order."""

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimed.core import EventSink, Runtime
from runtimed.core.limits import Limits
from runtimed.errors import (
    CursorExpired,
    CursorUnknownOrExpired,
    Unavailable,
    UpstreamClosed,
    WorkerDeleted,
    WorkerNotFound,
)
from runtimed.feed import Feed, Selection
from runtimed.feed.encoding import ServerSentEvents, SocketMessages
from runtimed.feed.observer import MAX_UNSENT
from runtimed.model.event import SystemItem
from runtimed.model.identity import WorkerRef
from runtimed.store.memory import MemoryStore
from tests.feed.conftest import Watcher

from .conftest import FakeBackend, cursors_behind, said, say, until, watching, worker_of

STEPS = ("say", "say", "say", "join", "resume", "read", "read", "leave", "turn")


async def test_unread_bytes_of_all_observers_are_bounded_and_the_slowest_resume_without_loss() -> None:
    backend, limit = FakeBackend(), 500_000
    async with Runtime(MemoryStore(), backend) as runtime, AsyncExitStack() as stack:
        feed = Feed(runtime, max_unread_bytes=limit)
        stack.callback(feed.close)
        quiet, *refs = [await worker_of(runtime) for _ in range(9)]
        reader = await stack.enter_async_context(watching(feed, quiet, buffer=4_096))
        slow = [await stack.enter_async_context(watching(feed, ref, buffer=4_096)) for ref in refs]
        for watcher in (reader, *slow):
            await watcher.read_until(watcher.has_some)

        for _ in range(3):
            for ref in refs:
                await say(runtime, backend, ref, ["x" * 100_000])
                await say(runtime, backend, quiet, ["x" * 5_000])
                expected = await cursors_behind(runtime, quiet, reader.began)
                await reader.read_until(partial(reader.has_cursors, expected))
                held = sum(one.observer.transport.get_write_buffer_size() for one in slow if not one.ended)
                assert held <= limit

        assert not reader.ended
        assert 0 < sum(bool(one.ended) for one in slow) < len(slow)
        for ref, one in zip(refs, slow, strict=True):
            assert all(isinstance(error, Unavailable) for error in one.ended)
            last = int(one.cursors[-1][3:], 16) if one.cursors else one.began
            again = await stack.enter_async_context(watching(feed, ref, last))
            missing = await cursors_behind(runtime, ref, last)
            await again.read_until(partial(again.has_cursors, missing))


class Crowd:
    """Observers that join, leave and read at random while Workers emit events."""

    def __init__(self, runtime: Runtime, feed: Feed, backend: FakeBackend, refs: list[WorkerRef], seed: int) -> None:
        self.runtime = runtime
        self.feed = feed
        self.backend = backend
        self.refs = refs
        self.random = random.Random(seed)
        self.present: list[tuple[Watcher, WorkerRef | None, int, AsyncExitStack]] = []
        self.talking: list[asyncio.Future[None]] = []

    async def step(self, stack: AsyncExitStack, name: str) -> None:
        await getattr(self, f"_{name}")(stack)

    async def _say(self, _stack: AsyncExitStack) -> None:
        ref, size = self.random.choice(self.refs), self.random.choice((1, 100, 3_000))
        talk = self._talk(self.backend.sinks[ref.worker_id], size, self.random.randint(1, 30))
        self.talking.append(asyncio.ensure_future(talk))

    async def _talk(self, sink: EventSink, size: int, count: int) -> None:
        for _ in range(count):
            await sink.emit(SystemItem({"kind": "said", "text": "x" * size}))
            await asyncio.sleep(self.random.choice((0, 0, 0.001)))

    async def _join(self, stack: AsyncExitStack) -> None:
        await self._enter(stack, self.random.choice([*self.refs, None]), None)

    async def _resume(self, stack: AsyncExitStack) -> None:
        cursor = self.random.randint(0, self.runtime.head)
        await self._enter(stack, self.random.choice([*self.refs, None]), cursor)

    async def _enter(self, stack: AsyncExitStack, ref: WorkerRef | None, cursor: int | None) -> None:
        own = await stack.enter_async_context(AsyncExitStack())
        watcher = await own.enter_async_context(watching(self.feed, ref, cursor, buffer=4_096))
        self.present.append((watcher, ref, watcher.began if cursor is None else cursor, own))

    async def _read(self, _stack: AsyncExitStack) -> None:
        for watcher, *_ in self.random.sample(self.present, len(self.present) // 2):
            watcher.take(self.random.choice((10, 1_000, 2**16)))

    async def _leave(self, _stack: AsyncExitStack) -> None:
        if self.present:
            watcher, ref, begin, own = self.present.pop(self.random.randrange(len(self.present)))
            await own.aclose()
            expected = await cursors_behind(self.runtime, ref, begin)
            lines = watcher.data.count(b"\n")
            greeting = min(lines, 1 if ref is not None else 0)
            assert watcher.cursors == expected[: lines - greeting]

    async def _turn(self, _stack: AsyncExitStack) -> None:
        await asyncio.sleep(self.random.choice((0, 0.002)))

    async def finish(self) -> None:
        """Let every observer read to the end, and check that each has seen every event once."""
        await asyncio.gather(*self.talking)
        await said(self.runtime, self.backend, self.refs)
        for watcher, ref, begin, _ in self.present:
            expected = await cursors_behind(self.runtime, ref, begin)
            wanted = len(expected) + (ref is not None)
            await watcher.read_until(partial(watcher.has_lines, wanted))
            assert watcher.cursors == expected
            assert not watcher.ended


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    ring_bytes=st.sampled_from((600, 10_000, 200_000)),
    steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40),
)
async def test_observers_that_join_stop_resume_and_leave_see_every_event_once_and_in_order(
    seed: int, ring_bytes: int, steps: list[str]
) -> None:
    backend = FakeBackend()
    limits = Limits(max_replay_items=7)
    async with Runtime(MemoryStore(), backend, limits=limits) as runtime, AsyncExitStack() as stack:
        feed = Feed(runtime, ring_bytes=ring_bytes)
        crowd = Crowd(runtime, feed, backend, [await worker_of(runtime) for _ in range(2)], seed)
        for name in steps:
            await crowd.step(stack, name)
        await crowd.finish()


async def test_a_synced_observer_costs_no_task() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime, AsyncExitStack() as stack:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        before = len(asyncio.all_tasks())
        watchers = [await stack.enter_async_context(watching(feed, ref)) for _ in range(200)]
        await until(lambda: len(asyncio.all_tasks()) == before)
        await say(runtime, backend, ref, ["one", "two"])
        for watcher in watchers:
            await watcher.read_until(partial(watcher.has_exactly, 3))
        assert len(asyncio.all_tasks()) == before


async def test_an_observer_that_does_not_read_buffers_a_bounded_amount_and_delays_nobody() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend, limits=Limits(max_page_bytes=50_000)) as runtime:
        feed = Feed(runtime, ring_bytes=50_000)
        ref = await worker_of(runtime)
        async with watching(feed, ref, buffer=4_096) as stopped, watching(feed, ref) as reading:
            for _ in range(20):
                await say(runtime, backend, ref, ["x" * 1_000] * 50)
                newest = runtime.worker(ref).last_cursor
                await reading.read_until(partial(reading.mentions, newest, 2))
                unsent = stopped.observer.transport.get_write_buffer_size()
                assert unsent <= MAX_UNSENT + 2 * 50_000 + 10_000
            await stopped.read_until(lambda: stopped.data.count(f'"{newest}"'.encode()) == 2)
            assert stopped.cursors == reading.cursors == await cursors_behind(runtime, ref, 0)


async def test_observers_of_equal_views_share_one_log_that_is_dropped_with_the_last_of_them() -> None:
    async with Runtime(MemoryStore(), FakeBackend()) as runtime:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        async with watching(feed, ref), watching(feed, ref), watching(feed, None), watching(feed, None):
            assert {key: len(logs) for key, logs in feed._logs.items()} == {ref.worker_id: 1, None: 1}
        assert not feed._logs


async def test_observers_of_different_selections_share_one_log_and_each_sees_its_own() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime, AsyncExitStack() as stack:
        feed = Feed(runtime)
        refs = [await worker_of(runtime, number=f"{number}") for number in range(100)]
        watchers = [
            await stack.enter_async_context(
                watching(feed, None, selection=Selection(labels=frozenset({("number", f"{number}")})))
            )
            for number in range(100)
        ]
        assert [len(logs) for logs in feed._logs.values()] == [1]
        for number, ref in enumerate(refs):
            await say(runtime, backend, ref, [f"{number}"])
        for number, watcher in enumerate(watchers):
            await watcher.read_until(watcher.has_some)
            assert [one["payload"]["data"]["item"]["text"] for one in watcher.envelopes] == [f"{number}"]


async def test_a_selection_by_labels_shows_all_events_of_a_worker_that_is_deleted_right_after_them() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime)
        red, other = await worker_of(runtime, colour="red"), await worker_of(runtime)
        selection = Selection(labels=frozenset({("colour", "red")}))
        async with watching(feed, None, selection=selection) as watcher:
            await until(lambda: watcher.observer in watcher.observer._log.synced._synced)
            await say(runtime, backend, red, ["one", "two"])
            await runtime.stop_worker(red)
            await runtime.delete_worker(red)
            await say(runtime, backend, other, ["still here"])
            await watcher.read_until(lambda: len(watcher.envelopes) == 3)
            assert [one["payload"]["event"] for one in watcher.envelopes][:2] == ["system_item", "system_item"]


async def test_a_selection_shows_only_matching_events_and_advances_past_the_others() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime, ring_bytes=500)
        red, blue = await worker_of(runtime, colour="red"), await worker_of(runtime, colour="blue")
        selection = Selection(labels=frozenset({("colour", "red")}), names=frozenset({"system_item"}))
        async with watching(feed, None, 0, selection=selection) as watcher:
            for number in range(5):
                await say(runtime, backend, blue, [f"blue {number}"])
                await say(runtime, backend, red, [f"red {number}"])
            await say(runtime, backend, blue, ["blue"])
            await watcher.read_until(lambda: len(watcher.envelopes) == 5)
            await until(lambda: watcher.observer.sequence == runtime.head)
        assert [one["payload"]["data"]["item"]["text"] for one in watcher.envelopes] == [f"red {n}" for n in range(5)]


async def test_a_closed_feed_ends_synced_and_unsynced_observers_once_they_have_everything() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime, ring_bytes=1_000)
        ref = await worker_of(runtime)
        await say(runtime, backend, ref, ["x" * 100] * 500)
        async with watching(feed, ref) as waiting, watching(feed, ref, 0, buffer=4_096) as behind:
            await waiting.read_until(lambda: waiting.data.endswith(b"\n"))
            await say(runtime, backend, ref, ["last"])
            feed.close()
            await until(lambda: waiting.ended)
            assert isinstance(waiting.ended[0], UpstreamClosed)
            assert not behind.ended
            for watcher, count in ((waiting, 1), (behind, 501)):
                await watcher.read_until(partial(watcher.has_exactly, count + 1))
                await until(watcher.has_ended)
                assert isinstance(watcher.ended[0], UpstreamClosed)
                assert len(watcher.cursors) == count
        with pytest.raises(UpstreamClosed):
            async with watching(feed, ref):
                pass


async def test_the_deletion_of_a_worker_ends_its_observers_and_those_of_all_go_on() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime)
        ref, other = await worker_of(runtime), await worker_of(runtime)
        async with watching(feed, ref) as one, watching(feed, None) as everything:
            await one.read_until(lambda: one.data.endswith(b"\n"))
            await runtime.stop_worker(ref)
            await runtime.delete_worker(ref)
            await until(lambda: one.ended)
            assert isinstance(one.ended[0], WorkerDeleted)
            await one.read_until(lambda: len(one.cursors) == 1)
            await say(runtime, backend, other, ["still here"])
            await everything.read_until(lambda: len(everything.envelopes) == 2)
            assert not everything.ended
        with pytest.raises(WorkerNotFound):
            async with watching(feed, ref):
                pass


async def test_a_cursor_older_than_what_is_retained_is_refused() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend, limits=Limits(max_events_per_worker=10)) as runtime:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        await say(runtime, backend, ref, ["x"] * 40)
        await until(lambda: runtime.retained_after(ref))
        for observed in (ref, None):
            with pytest.raises(CursorUnknownOrExpired):
                async with watching(feed, observed, 0):
                    pass
        floor = runtime.retained_after(ref)
        async with watching(feed, ref, floor) as watcher:
            await watcher.read_until(lambda: len(watcher.data.split(b"\n")) == 40 - floor + 2)
        assert watcher.cursors == [f"wo_{sequence:016x}" for sequence in range(floor + 1, 41)]


async def test_an_observer_that_retention_overtakes_ends_with_cursor_expired_and_sees_no_gap_before() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend, limits=Limits(max_events_per_worker=50)) as runtime:
        feed = Feed(runtime, ring_bytes=10_000)
        ref = await worker_of(runtime)
        async with watching(feed, ref, buffer=4_096) as watcher:
            while not (runtime.retained_after(ref) > watcher.observer.sequence + 500):
                await say(runtime, backend, ref, ["x" * 1_000] * 50)
            await until(watcher.takes_to_its_end)
        assert isinstance(watcher.ended[0], CursorExpired)
        assert watcher.cursors == [f"wo_{sequence:016x}" for sequence in range(1, len(watcher.cursors) + 1)]


async def test_an_observer_whose_transport_closed_is_ended_at_the_next_event() -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        async with watching(feed, ref) as watcher:
            await watcher.read_until(lambda: watcher.data.endswith(b"\n"))
            watcher.observer.abort()
            await say(runtime, backend, ref, ["one"])
            await until(lambda: watcher.ended)
            assert isinstance(watcher.ended[0], ConnectionResetError)


@pytest.mark.parametrize("size", [0, 1, 200, 70_000])
async def test_a_socket_message_of_any_size_begins_with_its_length(size: int) -> None:
    backend = FakeBackend()
    async with Runtime(MemoryStore(), backend) as runtime:
        feed = Feed(runtime)
        ref = await worker_of(runtime)
        await say(runtime, backend, ref, ["x" * size, "y"])
        async with watching(feed, None, 0, encoding=SocketMessages()) as watcher:
            await watcher.read_until(lambda: watcher.data.endswith(b"}}}}"))
            await watcher.read_until(lambda: watcher.data.count(b'"kind":"event"') == 2)
        texts = []
        data = watcher.data
        while data:
            assert data[0] == 0x81
            width = {126: 2, 127: 8}.get(data[1], 0)
            length = int.from_bytes(data[2 : 2 + width], "big") if width else data[1]
            texts.append(data[2 + width : 2 + width + length])
            data = data[2 + width + length :]
        assert [text[:1] + text[-1:] for text in texts] == [b"{}", b"{}"]


async def test_events_that_are_written_together_to_an_event_stream_are_one_chunk() -> None:
    encoding = ServerSentEvents(chunked=True)
    assert encoding.join((b"one\n\n", b"two\n\n")) == b"a\r\none\n\ntwo\n\n\r\n"
    assert ServerSentEvents(chunked=False).join((b"one\n\n", b"two\n\n")) == b"one\n\ntwo\n\n"
