"""How output becomes Changes: alone while it is slow for the machine, collected while it is fast."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest

from runtimed.core import Runtime, Store
from runtimed.core.engine import mailbox as mailboxes
from runtimed.core.engine import pacing
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.model.event import Payload, RunEnd, TextDelta
from runtimed.store.memory import MemoryStore
from tests.core.conftest import FakeBackend, run_ready_callbacks

Talk = Callable[[Store], Awaitable[tuple[list[EncodedEvent], Callable[..., Awaitable[None]]]]]


class Costly(MemoryStore):
    """A store whose commits take the processor as long as a test says; it counts those with events."""

    cost_s = 0.0
    commits = 0

    @property
    def commit_cost_s(self) -> float:
        return self.cost_s

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        self.commits += bool(change.events)
        return super().commit(change)


class Held(Costly):
    """One whose commits are done when a test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        return asyncio.ensure_future(self._after_release(super().commit(change)))

    async def _after_release(self, committed: asyncio.Future[Sequence[EncodedEvent]]) -> Sequence[EncodedEvent]:
        await self.may.wait()
        return await committed


@pytest.fixture
async def clock(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """As everywhere; and nothing takes the processor."""
    monkeypatch.setattr(mailboxes, "time", SimpleNamespace(thread_time=lambda: 0.0))
    return clock


@pytest.fixture
def costly() -> Costly:
    return Costly()


@pytest.fixture
def held() -> Held:
    return Held()


def texts(published: Sequence[EncodedEvent]) -> list[str]:
    payloads = [json.loads(event.payload) for event in published]
    return [payload["data"]["text"] for payload in payloads if payload["event"] == "text_delta"]


@pytest.fixture
async def talk(backend: FakeBackend) -> AsyncIterator[Talk]:
    """Starts a Worker in a Runtime on a store; returns what is published, and how to have the Worker speak."""
    runtimes: list[Runtime] = []

    async def start(store: Store) -> tuple[list[EncodedEvent], Callable[..., Awaitable[None]]]:
        runtime = Runtime(store, backend)
        runtimes.append(runtime)
        await runtime.start()
        published: list[EncodedEvent] = []
        runtime.subscribe(SimpleNamespace(publish=lambda _, events: published.extend(events), forget=lambda _: None))
        worker = await runtime.create_worker()

        async def say(*pieces: str | Payload) -> None:
            for piece in pieces:
                await backend.say(worker.worker_id, TextDelta(piece) if isinstance(piece, str) else piece)
            await run_ready_callbacks()

        return published, say

    yield start
    for runtime in runtimes:
        await runtime.close()


async def test_output_after_quiet_is_committed_at_once(clock: SimpleNamespace, costly: Costly, talk: Talk) -> None:
    costly.cost_s = 1.0
    published, say = await talk(costly)

    await say("a")
    clock.now += pacing.MAX_REST_S
    await say("b")

    assert texts(published) == ["a", "b"]


async def test_a_stream_that_is_slow_for_its_cost_is_never_collected(
    clock: SimpleNamespace, costly: Costly, talk: Talk
) -> None:
    costly.cost_s = 0.0005
    published, say = await talk(costly)

    for token in "tokens at the pace of a model":
        await say(token)
        clock.now += pacing.REST * costly.cost_s + 0.0001

    assert texts(published) == list("tokens at the pace of a model")


async def test_a_stream_that_is_fast_for_its_cost_is_collected_for_the_longest_rest(
    clock: SimpleNamespace, costly: Costly, talk: Talk
) -> None:
    costly.cost_s = 0.0005
    published, say = await talk(costly)
    step = 0.0005
    rest = round(pacing.MAX_REST_S / step)

    for _ in range(5 * rest):
        await say("x")
        clock.now += step
    begun = costly.commits
    for _ in range(20 * rest):
        await say("x")
        clock.now += step
    clock.now += pacing.MAX_REST_S
    await say("y")

    assert costly.commits - begun <= 22
    assert "".join(texts(published)) == 25 * rest * "x" + "y"


async def test_a_stream_that_becomes_slow_is_no_longer_collected(
    clock: SimpleNamespace, costly: Costly, talk: Talk
) -> None:
    costly.cost_s = 0.0005
    published, say = await talk(costly)
    for _ in range(200):
        await say("x")
        clock.now += 0.0005
    clock.now += pacing.MAX_REST_S
    await say("last")

    for _ in range(20):
        clock.now += 0.008
        await say("slow")

    assert texts(published)[-10:] == ["slow"] * 10


async def test_a_fast_stream_that_pauses_is_collected_again_after_its_first_piece(
    clock: SimpleNamespace, costly: Costly, talk: Talk
) -> None:
    costly.cost_s = 0.0005
    published, say = await talk(costly)
    for _ in range(200):
        await say("x")
        clock.now += 0.0005
    clock.now += pacing.MAX_REST_S
    await say("last")

    clock.now += pacing.MAX_REST_S
    await say("first")
    clock.now += pacing.MAX_REST_S / 2
    await say("second")

    assert texts(published)[-1] == "first"


async def test_output_during_a_rest_is_decided_together_after_it(
    clock: SimpleNamespace, costly: Costly, talk: Talk
) -> None:
    costly.cost_s = 1.0
    published, say = await talk(costly)
    await say("a")
    before = costly.commits

    await say("b", "c")
    in_the_rest = texts(published)
    clock.now += pacing.MAX_REST_S
    await say("d")

    assert in_the_rest == ["a"]
    assert texts(published) == ["a", "b", "c", "d"]
    assert costly.commits == before + 1


async def test_output_while_a_change_is_in_flight_is_decided_together(
    clock: SimpleNamespace, held: Held, talk: Talk
) -> None:
    published, say = await talk(held)
    held.may.clear()
    before = held.commits

    await say("a")
    await say("b")
    await say("c")
    clock.now += pacing.MAX_REST_S
    held.may.set()
    await run_ready_callbacks()

    assert texts(published) == ["a", "b", "c"]
    assert held.commits == before + 2


async def test_many_pieces_of_text_that_are_decided_together_become_one_event(
    clock: SimpleNamespace, costly: Costly, talk: Talk
) -> None:
    costly.cost_s = 1.0
    published, say = await talk(costly)
    await say("a")

    await say(*"many pieces")
    clock.now += pacing.MAX_REST_S
    await say(" of text")

    assert texts(published) == ["a", "many pieces of text"]


async def test_a_slow_disk_does_not_lengthen_rests(clock: SimpleNamespace, held: Held, talk: Talk) -> None:
    published, say = await talk(held)

    for token in "slow":
        held.may.clear()
        await say(token)
        clock.now += 0.05
        held.may.set()
        await run_ready_callbacks()

    assert texts(published) == list("slow")


async def test_the_end_of_a_run_waits_for_no_rest(clock: SimpleNamespace, costly: Costly, talk: Talk) -> None:
    costly.cost_s = 1.0
    published, say = await talk(costly)
    await say("a")

    await say("b", RunEnd("finished"))

    assert texts(published) == ["a", "b"]


async def test_one_slow_change_makes_no_long_rest(clock: SimpleNamespace, costly: Costly, talk: Talk) -> None:
    published, say = await talk(costly)
    costly.cost_s = 1.0
    await say("a")
    costly.cost_s = 0.0

    clock.now += pacing.REST * pacing.USUAL_COST_S + 0.0001
    await say("b")
    clock.now += pacing.REST * pacing.USUAL_COST_S * pacing.MAX_RISE + 0.0001
    await say("c")

    assert texts(published) == ["a", "b", "c"]
