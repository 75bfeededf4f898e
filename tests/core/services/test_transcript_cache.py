"""Pages of transcripts that are kept in memory: never wrong, never many."""

from collections.abc import Sequence

import pytest

from runtimed.core import Runtime
from runtimed.core.limits import Limits
from runtimed.core.paging import PageSize
from runtimed.core.state.change import Entry
from runtimed.model.event import RunEnd, TextDone
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.model.transcript import TranscriptProjection
from runtimed.store.memory import MemoryStore
from tests.core.conftest import FakeBackend


class Counting(MemoryStore):
    """A store that counts how often entries are read."""

    reads = 0

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        self.reads += 1
        return await super().read_entries(worker_id, start, page)


@pytest.fixture
def store() -> Counting:
    return Counting()


async def say(runtime: Runtime, backend: FakeBackend, ref: WorkerRef, number: int) -> None:
    await runtime.send_input(ref, WorkerInput("user", f"{number}"))
    await backend.say(ref.worker_id, TextDone(f"re {number}"), RunEnd("finished"))


def contents(page: TranscriptProjection) -> list[str]:
    return [item.content for item in page.items]


async def test_a_cached_page_is_read_once_and_shows_newer_entries(
    runtime: Runtime, store: Counting, backend: FakeBackend
) -> None:
    ref = (await runtime.create_worker()).worker_ref
    for number in range(5):
        await say(runtime, backend, ref, number)
        page = await runtime.transcript(ref, limit=4)
        assert contents(page) == ["0", "re 0", "1", "re 1"][: page.total_items]
        newest = await runtime.transcript(ref, start=page.total_items - 1)
        assert newest.items[-1].sequence == newest.total_items
    before = store.reads
    for _ in range(3):
        assert contents(await runtime.transcript(ref, limit=4)) == ["0", "re 0", "1", "re 1"]
        assert (await runtime.transcript(ref, limit=4)).total_items == page.total_items
    assert store.reads == before


async def test_the_transcript_cache_keeps_its_limit_of_bytes(store: Counting, backend: FakeBackend) -> None:
    async with Runtime(store, backend, limits=Limits(transcript_cache_bytes=20_000)) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        for number in range(50):
            await say(runtime, backend, ref, number)
        for start in range(50):
            await runtime.transcript(ref, start, 1)
        before = store.reads
        await runtime.transcript(ref, 49, 1)
        assert store.reads == before
        await runtime.transcript(ref, 0, 1)
        assert store.reads == before + 1
        await runtime.transcript(ref)
        await runtime.transcript(ref)
        assert store.reads == before + 3
