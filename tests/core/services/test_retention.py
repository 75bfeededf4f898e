"""How long events are kept, and what becomes of those who read behind that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import pytest

from runtimed.core import Runtime, Store
from runtimed.core.limits import Limits
from runtimed.core.ports import Clock
from runtimed.core.state.change import Change, EncodedEvent, StateAt, TrimRange
from runtimed.errors import CursorExpired, StoreCorrupt, StoreFull
from runtimed.model.event import RunEnd, Snapshot, TextBlock, TextDelta, TextDone, ThinkingDelta, ToolCallStart
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.core.conftest import FailingStore, FakeBackend, MakeStore, snapshot_of

HELLO = WorkerInput("user", "hello")

T = TypeVar("T")


@attrs.define
class Watch:
    """A Clock that goes on when a test says so."""

    now_ms: int = 1_000_000_000
    asked: int = 0

    def unix_ms(self) -> int:
        self.asked += 1
        return self.now_ms

    async def looked_at(self) -> None:
        """Go on a little, and wait until whoever looks at it regularly has done so."""
        self.now_ms += 1_000
        before = self.asked
        await until(lambda: self.asked > before + 1)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else lambda: SqliteStore(tmp_path / "store")


@contextlib.asynccontextmanager
async def running(
    store: Store, backend: FakeBackend, clock: Clock | None = None, **limits: int
) -> AsyncIterator[Runtime]:
    async with Runtime(store, backend, limits=Limits(**limits), clock=clock) as runtime:
        yield runtime


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def chatter(backend: FakeBackend, ref: WorkerRef, count: int) -> None:
    for number in range(count):
        await backend.say(ref.worker_id, ThinkingDelta(str(number)))


async def settled(runtime: Runtime, ref: WorkerRef, count: int) -> None:
    await until(lambda: runtime.newest_sequence(ref) >= count)


def is_trimmed_beyond(runtime: Runtime, ref: WorkerRef, sequence: int) -> bool:
    return runtime.retained_after(ref) > sequence


def text_in_flight(shown: Snapshot) -> str:
    """The text of a snapshot that has a tool call, a text and a thought in flight."""
    assert shown.in_flight is not None
    call, written, thought = shown.in_flight.blocks
    assert isinstance(written, TextBlock)
    assert (call.kind, thought.kind) == ("tool_call", "thinking")
    return written.text


async def ahead_of_trimming(read: Callable[[int], Awaitable[T]], retained_after: Callable[[], int]) -> tuple[int, T]:
    """The floor, and what `read` gives behind it; trimming may go on and get ahead of that."""
    while True:
        after = retained_after()
        with contextlib.suppress(CursorExpired):
            return after, await read(after)


async def test_the_oldest_events_of_a_worker_are_trimmed_beyond_its_limit(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, max_events_per_worker=100) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 1_000)
        await until(lambda: runtime.newest_sequence(ref) == 1_000 and runtime.retained_after(ref) >= 900)
        retained_after, kept = await ahead_of_trimming(
            lambda after: runtime.events(ref, after), lambda: runtime.retained_after(ref)
        )
        assert [event.sequence for event in kept] == list(range(retained_after + 1, 1_001))
        assert 90 <= len(kept) <= 100
        assert runtime.worker(ref).oldest_cursor == f"wo_{runtime.retained_after(ref):016x}"


async def test_a_limit_that_is_lowered_while_the_runtime_runs_trims_what_is_there(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, max_bundles=3) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 300)
        await until(lambda: runtime.newest_sequence(ref) == 300)
        assert runtime.retained_after(ref) == 0

        runtime.set_limits(Limits(max_events_per_worker=100, max_bundles=7))

        await until(lambda: runtime.retained_after(ref) >= 200)
        assert runtime.limits == Limits(max_events_per_worker=100, max_bundles=3)


async def test_a_reader_that_needs_trimmed_events_gets_an_error_and_never_a_gap(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, max_events_per_worker=50) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        seen: list[int] = []
        expired = False

        async def read() -> None:
            nonlocal expired
            while not expired:
                try:
                    page = await runtime.events(ref, seen[-1] if seen else 0, limit=3)
                except CursorExpired:
                    expired = True
                else:
                    seen.extend(event.sequence for event in page)
                    await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        while not expired:
            await chatter(backend, ref, 50)
        await reading
        assert seen == list(range(1, len(seen) + 1))
        with pytest.raises(CursorExpired):
            await runtime.snapshot(ref, 0)
        with pytest.raises(CursorExpired):
            await runtime.all_events(0)


async def test_transcripts_are_never_trimmed(make_store: MakeStore, backend: FakeBackend) -> None:
    async with running(make_store(), backend, max_events_per_worker=10) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        for number in range(40):
            await runtime.send_input(ref, WorkerInput("user", str(number)))
            await backend.say(ref.worker_id, TextDone(f"re {number}"), RunEnd("finished"))
        await until(lambda: runtime.retained_after(ref) > 90 and runtime.newest_sequence(ref) == 120)
        page = await runtime.transcript(ref)
        assert [item.content for item in page.items] == [f"{re}{n}" for n in range(40) for re in ("", "re ")]


async def test_output_in_flight_survives_the_trimming_of_its_first_events(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, max_events_per_worker=16) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await runtime.send_input(ref, HELLO)
        await backend.say(ref.worker_id, ToolCallStart("t", "tool"))
        for number in range(60):
            await backend.say(ref.worker_id, TextDelta(f"{number} "), ThinkingDelta("."))
            await settled(runtime, ref, 2 + 2 * number)
        await until(lambda: runtime.retained_after(ref) >= 106 and runtime.newest_sequence(ref) == 122)
        text = "".join(f"{number} " for number in range(60))
        for sequence in range(runtime.retained_after(ref), runtime.newest_sequence(ref) + 1):
            try:
                shown = await snapshot_of(runtime, ref, sequence)
            except CursorExpired:
                assert sequence < runtime.retained_after(ref)  # trimming goes on
                continue
            assert shown.status == "running"
            written = text_in_flight(shown)
            assert text.startswith(written)
        assert written == text
    async with running(make_store(), backend) as runtime:
        written = text_in_flight(await snapshot_of(runtime, ref, runtime.retained_after(ref)))
        assert text.startswith(written)
        page = await runtime.transcript(ref)
        assert [item.content for item in page.items] == ["hello", text]


async def test_the_events_of_all_workers_together_keep_the_limit_of_bytes(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    store = make_store()
    async with running(store, backend, max_event_bytes=20_000) as runtime:
        refs = [(await runtime.create_worker()).worker_ref for _ in range(3)]
        for _ in range(10):
            await asyncio.gather(*(chatter(backend, ref, 50) for ref in refs))
        await until(lambda: runtime.head == 1_500 and store.event_bytes <= 20_000)
        _, kept = await ahead_of_trimming(
            lambda after: runtime.all_events(after, limit=256), lambda: runtime.fleet_retained_after
        )
        assert kept[-1].sequence == 1_500 or len(kept) == 256
        assert store.event_bytes > 15_000


async def test_events_that_are_too_old_are_trimmed_though_the_worker_is_silent(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    clock = Watch()
    async with running(make_store(), backend, clock, max_event_age_s=60) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 10)
        await settled(runtime, ref, 10)
        await clock.looked_at()
        clock.now_ms += 30_000
        await chatter(backend, ref, 10)
        await settled(runtime, ref, 20)
        await clock.looked_at()
        assert runtime.retained_after(ref) == 0
        clock.now_ms += 45_000
        await until(lambda: runtime.retained_after(ref) == 10)
        clock.now_ms += 45_000
        await until(lambda: runtime.retained_after(ref) == 20)
        assert await runtime.events(ref, 20) == ()


async def test_retention_stores_only_as_many_marks_as_a_thousandth_of_the_age_needs(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    clock = Watch()
    async with running(make_store(), backend, clock, max_events_per_worker=20, max_event_age_s=60_000) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        for number in range(1, 11):
            await chatter(backend, ref, 30)
            await until(partial(is_trimmed_beyond, runtime, ref, 30 * number - 20))
            clock.now_ms += 20_000
    store = make_store()
    marks = (await store.open(None)).marks
    await store.close()
    assert 2 <= len(marks) <= 4


async def test_a_clock_that_was_ahead_before_a_restart_keeps_no_events_for_ever(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    ahead, clock = Watch(10**13), Watch()
    async with running(make_store(), backend, ahead, max_event_age_s=60) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 10)
        await settled(runtime, ref, 10)
        await ahead.looked_at()
    async with running(make_store(), backend, clock, max_event_age_s=60) as runtime:
        other = (await runtime.create_worker()).worker_ref
        await chatter(backend, other, 10)
        await settled(runtime, other, 20)
        await clock.looked_at()
        clock.now_ms += 120_000
        await until(lambda: runtime.retained_after(ref) >= 10)


class Forgetting(MemoryStore):
    """A store that remembers which marks it was told to forget, by their sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[int] = []

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        if change.forgotten and change.forgotten.marks:
            self.forgotten.append(change.forgotten.marks)
        return super().commit(change)


async def test_expired_marks_are_removed_once_though_the_clock_was_ahead_before_a_restart(
    backend: FakeBackend,
) -> None:
    store, ahead, clock = Forgetting(), Watch(10**13), Watch()
    async with running(store, backend, ahead, max_event_age_s=60) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 10)
        await settled(runtime, ref, 10)
        await ahead.looked_at()
    async with running(store, backend, clock, max_event_age_s=60) as runtime:
        other = (await runtime.create_worker()).worker_ref
        await chatter(backend, other, 10)
        await settled(runtime, other, 20)
        await clock.looked_at()
        clock.now_ms += 120_000
        await until(lambda: store.forgotten)
        await clock.looked_at()
        assert len(store.forgotten) == 1


async def test_trimmed_events_stay_trimmed_and_sequences_go_on_after_a_restart(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(make_store(), backend, max_events_per_worker=10) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 100)
        await until(lambda: runtime.retained_after(ref) >= 90 and runtime.newest_sequence(ref) == 100)
        retained_after = runtime.retained_after(ref)
    async with running(make_store(), backend, max_events_per_worker=10) as runtime:
        await until(lambda: runtime.retained_after(ref) >= retained_after)
        with pytest.raises(CursorExpired):
            await runtime.events(ref, retained_after - 1)
        assert (await runtime.create_worker()).worker_id == "worker-00000002"


async def test_a_lower_limit_takes_effect_at_the_next_start(make_store: MakeStore, backend: FakeBackend) -> None:
    async with running(make_store(), backend) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        await chatter(backend, ref, 100)
        await settled(runtime, ref, 100)
    async with running(make_store(), backend, max_events_per_worker=10) as runtime:
        await until(lambda: runtime.retained_after(ref) >= 90)


async def test_diagnostics_and_runtime_events_are_kept_up_to_a_number(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with running(
        make_store(), backend, max_event_age_s=60, max_diagnostics=10, max_runtime_events=10
    ) as runtime:
        for _ in range(30):
            await runtime.create_worker()
        await until(lambda: len(runtime.diagnostics()) <= 10)
        newest = runtime.newest_runtime_event
        assert newest == 31

        async def oldest() -> int:
            return (await runtime.runtime_events())[0].id

        async with asyncio.timeout(20):
            while await oldest() <= newest - 15:
                await asyncio.sleep(0.01)


async def test_runtime_events_that_a_full_disk_refused_displace_no_stored_ones(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    watch = Watch()
    async with running(failing_store, backend, watch, max_event_age_s=60, max_runtime_events=10) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        before = list(await runtime.runtime_events())
        failing_store.fault = StoreFull("there is no room")
        for _ in range(30):
            with pytest.raises(StoreFull):
                await runtime.send_input(ref, HELLO)
        failing_store.fault = None
        await watch.looked_at()
        assert list(await runtime.runtime_events()) == before


class Unpurged(MemoryStore):
    """A store that removes nothing of a deleted Worker until it `may`."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def purge(self, worker_id: WorkerId) -> bool:
        await self.may.wait()
        return await super().purge(worker_id)


async def test_a_deleted_worker_whose_data_is_not_purged_yet_costs_the_others_no_events(backend: FakeBackend) -> None:
    store = Unpurged()
    async with running(store, backend, max_event_bytes=50_000) as runtime:
        kept, large = [(await runtime.create_worker()).worker_ref for _ in range(2)]
        await backend.say(large.worker_id, TextDone("x" * 45_000))
        await backend.say(kept.worker_id, TextDone("y" * 1_000))
        await runtime.stop_worker(large)
        await runtime.delete_worker(large)
        await backend.say(kept.worker_id, TextDone("z" * 10_000))
        await until(lambda: store.event_bytes > 50_000)
        for _ in range(100):
            await asyncio.sleep(0)
        store.may.set()
        await until(lambda: store.event_bytes < 50_000)
        assert len(await runtime.events(kept, 0)) == 2


class Illegible(MemoryStore):
    """A store that cannot tell any more how its first Worker stood; `asked` counts how often it was to."""

    asked = 0

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        if worker_id == "worker-00000001":
            self.asked += 1
            raise StoreCorrupt("an event of worker-00000001 is damaged")
        return await super().state_at(worker_id, sequence)


async def test_a_damaged_worker_does_not_stop_the_trimming_of_others(
    backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store, watch = Illegible(), Watch()
    async with running(store, backend, watch, max_events_per_worker=100, max_event_age_s=60) as runtime:
        damaged, sound = [(await runtime.create_worker()).worker_ref for _ in range(2)]
        await chatter(backend, damaged, 150)
        await until(lambda: store.asked)
        await chatter(backend, sound, 50)
        await until(lambda: runtime.newest_sequence(sound) > 150)
        await watch.looked_at()
        watch.now_ms += 3_600_000
        await until(lambda: runtime.retained_after(sound) == runtime.newest_sequence(sound))
        assert runtime.retained_after(damaged) == 0
    assert store.asked == 1
    assert len([line for line in caplog.messages if "stopped trimming" in line]) == 1


async def test_the_limit_of_bytes_holds_though_the_oldest_events_belong_to_a_damaged_worker(
    backend: FakeBackend,
) -> None:
    store = Illegible()
    async with running(store, backend, max_events_per_worker=100, max_event_bytes=20_000) as runtime:
        damaged, sound = [(await runtime.create_worker()).worker_ref for _ in range(2)]
        await chatter(backend, damaged, 150)
        await until(lambda: store.asked)
        for _ in range(20):
            await chatter(backend, sound, 90)
        await until(lambda: runtime.newest_sequence(sound) == 1_950 and store.event_bytes <= 20_000)
        assert runtime.retained_after(damaged) == 0


class Unlisted(MemoryStore):
    """A store that cannot list the oldest events of its first Worker; `asked` counts how often it was to."""

    asked = 0

    async def oldest_events(
        self,
        worker_id: WorkerId | None,
        upto: int,
        count: int,
        spared: Collection[WorkerId] = (),
        tenant: str | None = None,
    ) -> Sequence[TrimRange]:
        if worker_id == "worker-00000001":
            self.asked += 1
            raise StoreCorrupt("an event of worker-00000001 is damaged")
        return await super().oldest_events(worker_id, upto, count, spared, tenant)


async def test_a_worker_whose_events_cannot_be_listed_does_not_stop_the_trimming_of_others(
    backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store = Unlisted()
    async with running(store, backend, max_events_per_worker=100, max_event_bytes=20_000) as runtime:
        damaged, sound = [(await runtime.create_worker()).worker_ref for _ in range(2)]
        await chatter(backend, damaged, 150)
        await until(lambda: store.asked)
        for _ in range(20):
            await chatter(backend, sound, 90)
        await until(lambda: runtime.newest_sequence(sound) == 1_950 and store.event_bytes <= 20_000)
        assert runtime.retained_after(damaged) == 0
    assert store.asked == 1
    assert len([line for line in caplog.messages if "stopped trimming" in line]) == 1
