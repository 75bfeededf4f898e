"""Idempotency keys in the core: who is answered, what goes on, and what is forgotten."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimed.core import Runtime
from runtimed.core.limits import Limits
from runtimed.core.paging import PageSize
from runtimed.errors import IdempotencyConflict, StoreFull
from runtimed.model.idempotency import IdempotencyKey
from runtimed.model.interaction import WorkerInput
from runtimed.store import records
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.core.conftest import FailingStore, FakeBackend

ALL = PageSize(items=1_000, max_bytes=10**6)
HELLO = WorkerInput("user", "hello")


def key(name: str, body: bytes = b"{}") -> IdempotencyKey:
    return IdempotencyKey.of(name, body=body)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_request_goes_on_when_its_caller_is_gone_and_the_repeat_gets_its_answer(
    runtime: Runtime, backend: FakeBackend
) -> None:
    backend.gate.clear()
    first = asyncio.create_task(runtime.create_worker(key=key("a")))
    await until(lambda: "spawn" in backend.calls)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    again = asyncio.create_task(runtime.create_worker(key=key("a")))
    await asyncio.sleep(0)
    backend.gate.set()

    worker = await again
    assert [found.worker_id for found in runtime.workers()] == [worker.worker_id]
    assert worker.execution.run_state == "idle"


async def test_a_request_that_the_disk_refused_leaves_no_key(
    failing_store: FailingStore, backend: FakeBackend
) -> None:
    async with Runtime(failing_store, backend) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        failing_store.fault = StoreFull("full")
        with pytest.raises(StoreFull):
            await runtime.send_input(ref, HELLO, key=key("a"))
        failing_store.fault = None

        ack = await runtime.send_input(ref, HELLO, key=key("a"))

        assert await runtime.send_input(ref, HELLO, key=key("a")) == ack
        assert runtime.worker(ref).transcript_len == 1


async def test_a_key_with_another_body_conflicts_also_while_the_first_is_running(
    runtime: Runtime, backend: FakeBackend
) -> None:
    ref = (await runtime.create_worker()).worker_ref
    backend.gate.clear()
    first = asyncio.create_task(runtime.send_input(ref, HELLO, key=key("a")))
    await until(lambda: "dispatch hello" in backend.calls)

    with pytest.raises(IdempotencyConflict):
        await runtime.send_input(ref, HELLO, key=key("a", b"other"))
    backend.gate.set()
    await first
    with pytest.raises(IdempotencyConflict):
        await runtime.send_input(ref, HELLO, key=key("a", b"other"))


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "sqlite"])
async def test_keys_above_the_limit_are_removed_from_the_store(
    tmp_path: Path, backend: FakeBackend, durable: bool
) -> None:
    store = SqliteStore(tmp_path / "store") if durable else MemoryStore()
    async with Runtime(store, backend, limits=Limits(max_idempotency_keys=3)) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        acks = []
        for number in range(12):
            acks.append(await runtime.send_input(ref, HELLO, key=key(f"{number}")))
            await backend.finish(ref.worker_id)
        async with asyncio.timeout(10):
            while len(found := await store.read_records(records.IDEMPOTENCY, 0, ALL)) > 3:
                await asyncio.sleep(0.01)

        assert [record.event for record in found] == [ack.event_id for ack in acks[-3:]]
        assert await runtime.send_input(ref, HELLO, key=key("11")) == acks[11]
        assert (await runtime.send_input(ref, HELLO, key=key("0"))).event_id > acks[11].event_id
