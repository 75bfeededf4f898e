"""Workers whose data is damaged: they alone are refused."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest

from runtimed.core import Runtime, Store
from runtimed.core.state.change import StoredState
from runtimed.errors import StoreCorrupt, WorkerNotFound
from runtimed.model.identity import RuntimeId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.store.memory import MemoryStore
from tests.core.conftest import FakeBackend

WHY = "worker-00000001: the entry 3 is missing"


class Damaged(MemoryStore):
    """A store that finds, at each start after the first, that the first Worker is damaged."""

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        state = await super().open(runtime_id)
        workers = state.workers[:1]
        return attrs.evolve(state, damaged={worker.worker_id: WHY for worker in workers})


@pytest.fixture
def store() -> Damaged:
    return Damaged()


@contextlib.asynccontextmanager
async def again(store: Store, backend: FakeBackend) -> AsyncIterator[tuple[Runtime, WorkerRef, WorkerRef]]:
    async with Runtime(store, backend) as first:
        damaged, sound = [(await first.create_worker()).worker_ref for _ in range(2)]
    async with Runtime(store, backend) as second:
        yield second, damaged, sound


async def test_a_damaged_worker_is_refused_in_every_way_and_the_others_are_served(
    store: Damaged, backend: FakeBackend
) -> None:
    async with again(store, backend) as (runtime, damaged, sound):
        uses: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: runtime.transcript(damaged),
            lambda: runtime.snapshot(damaged),
            lambda: runtime.events(damaged, 0),
            lambda: runtime.send_input(damaged, WorkerInput("user", "hello")),
            lambda: runtime.stop_worker(damaged),
        )
        for use in uses:
            with pytest.raises(StoreCorrupt, match="the entry 3 is missing"):
                await use()
        with pytest.raises(StoreCorrupt):
            runtime.worker(damaged)
        assert runtime.worker(sound).worker_id == sound.worker_id
        assert (await runtime.stop_worker(sound)).status == "stopped"


async def test_a_damaged_worker_is_reported_as_a_diagnostic(store: Damaged, backend: FakeBackend) -> None:
    async with again(store, backend) as (runtime, damaged, _):
        [told] = [diagnostic for diagnostic in runtime.diagnostics() if diagnostic.severity == "error"]
        assert (told.code, told.message, told.worker_id) == ("store.worker_damaged", WHY, damaged.worker_id)
        assert runtime.summary().diagnostic_count == len(runtime.diagnostics())


async def test_a_damaged_worker_can_be_deleted(store: Damaged, backend: FakeBackend) -> None:
    async with again(store, backend) as (runtime, damaged, sound):
        await runtime.delete_worker(damaged)
        with pytest.raises(WorkerNotFound):
            runtime.worker(damaged)
        assert [worker.worker_id for worker in runtime.workers()] == [sound.worker_id]
