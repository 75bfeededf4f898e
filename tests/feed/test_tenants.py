"""What the clients of a tenant get of the feed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import attrs
import pytest

from runtimed.core import Runtime
from runtimed.core.limits import Limits, TenantLimits
from runtimed.errors import CursorExpired, CursorUnknownOrExpired, WorkerNotFound
from runtimed.feed import Feed, Selection, Waits
from runtimed.feed.view import EVERYTHING
from runtimed.model.identity import EventCursor, WorkerRef
from runtimed.model.principal import ADMIN, Principal
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.feed.conftest import FakeBackend, say, until, watching, worker_of

ACME, OTHER = Principal("a", "observer", "acme"), Principal("b", "observer", "other")
RED = attrs.evolve(ACME, labels=(("team", "red"),))


@pytest.fixture
async def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(params=["memory", "sqlite"])
async def runtime(request: pytest.FixtureRequest, backend: FakeBackend, tmp_path: Path) -> AsyncIterator[Runtime]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store")
    limits = Limits(max_event_batch_items=5, max_replay_items=7)
    async with Runtime(store, backend, limits=limits) as running:
        yield running


@pytest.fixture
async def feed(runtime: Runtime) -> AsyncIterator[Feed]:
    opened = Feed(runtime, ring_bytes=4_000)
    yield opened
    opened.close()


async def talk(runtime: Runtime, backend: FakeBackend, refs: Sequence[WorkerRef], rounds: int) -> None:
    for _ in range(rounds):
        for ref in refs:
            await say(runtime, backend, ref, ["x" * 50])


def cursors(runtime: Runtime, events: Sequence[int]) -> list[str]:
    return [f"wo_{sequence:016x}" for sequence in events]


async def sequences(runtime: Runtime, *refs: WorkerRef) -> list[int]:
    """Return the sequences of all events of these Workers."""
    found: list[int] = []
    for ref in refs:
        after = 0
        while page := await runtime.events(ref, after):
            found += [event.sequence for event in page]
            after = page[-1].sequence
    return sorted(found)


async def test_an_observer_gets_the_events_of_its_tenant_whatever_others_do_meanwhile(
    runtime: Runtime, backend: FakeBackend, feed: Feed
) -> None:
    own, foreign, second = [await worker_of(runtime, principal) for principal in (ACME, OTHER, ACME)]
    await talk(runtime, backend, (own, foreign, second), 20)

    async with (
        watching(feed, None, 0, principal=ACME) as watcher,
        watching(feed, None, 0) as all_seeing,
        watching(feed, None, principal=OTHER) as late,
    ):
        await talk(runtime, backend, (foreign, second, own), 20)
        expected = cursors(runtime, await sequences(runtime, own, second))
        everything = cursors(runtime, await sequences(runtime, own, second, foreign))
        theirs = cursors(runtime, (await sequences(runtime, foreign))[20:])
        await watcher.read_until(lambda: len(watcher.cursors) >= len(expected))
        await all_seeing.read_until(lambda: len(all_seeing.cursors) >= len(everything))
        await late.read_until(lambda: len(late.cursors) >= len(theirs))

    assert watcher.cursors == expected
    assert {one["worker_id"] for one in watcher.envelopes} == {own.worker_id, second.worker_id}
    assert all_seeing.cursors == everything
    assert late.cursors == theirs


async def test_the_labels_of_a_token_narrow_a_feed_and_nothing_in_the_request_widens_it(
    runtime: Runtime, backend: FakeBackend, feed: Feed
) -> None:
    red, blue = await worker_of(runtime, ACME, team="red"), await worker_of(runtime, ACME, team="blue")
    foreign = await worker_of(runtime, OTHER, team="red")
    widening = Selection(labels=frozenset({("team", "blue")}))

    async with (
        watching(feed, None, 0, principal=RED) as narrowed,
        watching(feed, None, 0, principal=RED, selection=widening) as contradicting,
    ):
        await talk(runtime, backend, (blue, foreign, red), 3)
        expected = cursors(runtime, await sequences(runtime, red))
        await narrowed.read_until(lambda: len(narrowed.cursors) >= len(expected))
        page = await feed.page(None, widening, None, None, principal=RED)

    assert narrowed.cursors == expected
    assert contradicting.cursors == []
    assert page.events == []


async def test_pages_of_a_tenant_have_all_its_events_and_no_other(
    runtime: Runtime, backend: FakeBackend, feed: Feed
) -> None:
    own, foreign = await worker_of(runtime, ACME), await worker_of(runtime, OTHER)
    await talk(runtime, backend, (own,), 2)
    await talk(runtime, backend, (foreign,), 20)
    await talk(runtime, backend, (own, foreign), 3)

    found, cursor, sizes = [], None, []
    while True:
        page = await feed.page(None, EVERYTHING, cursor, None, principal=ACME)
        found += [event.sequence for event in page.events]
        sizes.append(len(page.events))
        cursor = EventCursor(runtime.runtime_id, page.upto)
        if not page.has_more:
            break

    assert found == await sequences(runtime, own)
    assert all(sizes[:-1])
    assert cursor.sequence == runtime.head


async def test_a_reader_of_a_tenant_waits_for_its_own_next_event(
    runtime: Runtime, backend: FakeBackend, feed: Feed
) -> None:
    own, foreign = await worker_of(runtime, ACME), await worker_of(runtime, OTHER)
    with feed.open(principal=ACME) as reader:
        await talk(runtime, backend, (foreign,), 10)
        assert await reader.read_available() == []
        reading = asyncio.create_task(reader.read())
        await talk(runtime, backend, (foreign, own), 1)

        async with asyncio.timeout(10):
            [message] = await reading

    assert own.worker_id.encode() in message


async def test_the_worker_of_another_tenant_cannot_be_observed_read_or_waited_for(
    runtime: Runtime, backend: FakeBackend, feed: Feed
) -> None:
    foreign, missing = await worker_of(runtime, OTHER), runtime.ref("worker-00000009")

    for ref in (foreign, missing):
        with pytest.raises(WorkerNotFound):
            async with watching(feed, ref, principal=ACME):
                pass
        with pytest.raises(WorkerNotFound), feed.open(ref, principal=ACME):
            pass
        with pytest.raises(WorkerNotFound):
            await feed.page(ref, EVERYTHING, None, None, principal=ACME)
        with pytest.raises(WorkerNotFound):
            feed.check(ref, EventCursor(runtime.runtime_id, 99), ACME)
        with pytest.raises(WorkerNotFound):
            await Waits(feed).wait(ref, {"idle"}, None, 5, principal=ACME)


async def test_a_cursor_of_another_tenant_is_a_place_like_any_other(
    runtime: Runtime, backend: FakeBackend, feed: Feed
) -> None:
    own, foreign = await worker_of(runtime, ACME), await worker_of(runtime, OTHER)
    await talk(runtime, backend, (own, foreign), 3)
    theirs = (await sequences(runtime, foreign))[0]
    ours = await sequences(runtime, own)

    for ref in (None, own):
        page = await feed.page(ref, EVERYTHING, EventCursor(runtime.runtime_id, theirs), None, principal=ACME)
        assert [event.sequence for event in page.events] == [one for one in ours if one > theirs]
        with pytest.raises(CursorUnknownOrExpired):
            feed.check(ref, EventCursor(runtime.runtime_id, runtime.head + 1), ACME)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_what_is_trimmed_of_one_tenant_expires_no_cursor_of_another(
    backend: FakeBackend, tmp_path: Path, kind: str
) -> None:
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "trimmed")
    async with Runtime(store, backend, tenants={"other": TenantLimits(max_event_bytes=2_000)}) as runtime:
        feed = Feed(runtime, ring_bytes=100)
        own, foreign = await worker_of(runtime, ACME), await worker_of(runtime, OTHER)
        await talk(runtime, backend, (own, foreign), 60)
        await until(lambda: runtime.row(foreign).retained < 40)

        async with watching(feed, None, 0, principal=ACME) as watcher:
            expected = cursors(runtime, await sequences(runtime, own))
            await watcher.read_until(lambda: len(watcher.cursors) >= len(expected))

        assert watcher.cursors == expected
        for principal in (OTHER, ADMIN):
            with pytest.raises(CursorUnknownOrExpired):
                feed.check(None, EventCursor(runtime.runtime_id, 1), principal)
        with pytest.raises(CursorExpired):
            await runtime.tenant_events("other", 1)
        feed.close()
