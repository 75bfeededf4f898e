"""Deleting a Worker: all of it goes, and nothing of it comes back."""

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

from runtimed.core import Runtime, Store
from runtimed.core.paging import PageSize
from runtimed.core.state.change import EncodedEvent
from runtimed.errors import StoreFull, StoreIo, WorkerNotFound, WorkerRunning
from runtimed.model.diagnostic import Diagnostic
from runtimed.model.event import RunEnd, TextDelta, TextDone
from runtimed.model.identity import WorkerId, WorkerRef
from runtimed.model.interaction import WorkerInput
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore
from tests.core import conftest
from tests.core.conftest import FailingStore, FakeBackend, MakeStore, SlowStore

HELLO = WorkerInput("user", "hello")


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else lambda: SqliteStore(tmp_path / "store")


@attrs.define(eq=False)
class RecordingSubscriber:
    """An EventSubscriber that keeps everything."""

    events: list[EncodedEvent] = attrs.field(factory=list)

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        self.events += events

    def changed(self, worker_id: WorkerId) -> None: ...

    def forget(self, worker_id: WorkerId) -> None: ...


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def over(runtime: Runtime, backend: FakeBackend) -> WorkerRef:
    """A Worker that has said something and was stopped."""
    worker = await runtime.create_worker()
    await runtime.send_input(worker.worker_ref, HELLO)
    await backend.say(worker.worker_id, TextDone("hi"), RunEnd("finished"))
    await runtime.stop_worker(worker.worker_ref)
    return worker.worker_ref


async def test_a_deleted_worker_is_gone_and_the_others_are_not(make_store: MakeStore, backend: FakeBackend) -> None:
    async with Runtime(make_store(), backend) as runtime:
        gone, kept = await over(runtime, backend), await over(runtime, backend)
        await runtime.delete_worker(gone)
        with pytest.raises(WorkerNotFound):
            runtime.worker(gone)
        assert [worker.worker_id for worker in runtime.workers()] == [kept.worker_id]
        assert {event.worker_id for event in await runtime.all_events(0)} == {kept.worker_id}
        assert {diagnostic.worker_id for diagnostic in runtime.diagnostics()} == {kept.worker_id}
        assert f"delete {gone.worker_id}" in backend.calls


async def test_a_read_during_a_deletion_does_not_return_an_empty_transcript(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    async with Runtime(slow_store, backend) as runtime:
        gone = await over(runtime, backend)
        slow_store.may.clear()
        deleting = asyncio.ensure_future(runtime.delete_worker(gone))
        async with asyncio.timeout(10):
            while await slow_store.newest_entries(gone.worker_id, 2, PageSize(9, 999)):
                await asyncio.sleep(0)
        reads = (runtime.transcript(gone), runtime.snapshot(gone), runtime.events(gone, 0))
        reading = [asyncio.ensure_future(read) for read in reads]
        await asyncio.sleep(0)
        slow_store.may.set()
        await deleting
        found = await asyncio.gather(*reading, return_exceptions=True)
        assert [type(outcome) for outcome in found] == [WorkerNotFound] * 3


async def test_nothing_of_a_deleted_worker_is_left_in_the_store(make_store: MakeStore, backend: FakeBackend) -> None:
    store = make_store()
    async with Runtime(store, backend) as runtime:
        gone = await over(runtime, backend)
        assert store.event_bytes > 0
        await runtime.delete_worker(gone)
        await until(lambda: store.event_bytes == 0)
        assert await store.purge(gone.worker_id)
    async with Runtime(make_store(), backend) as runtime:
        assert runtime.workers() == ()
        assert (await runtime.create_worker()).worker_id == "worker-00000002"


async def test_a_running_worker_is_not_deleted(make_store: MakeStore, backend: FakeBackend) -> None:
    async with Runtime(make_store(), backend) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        with pytest.raises(WorkerRunning):
            await runtime.delete_worker(ref)
        assert runtime.worker(ref).status == "running"


async def test_deleting_at_the_same_time_deletes_once(make_store: MakeStore, backend: FakeBackend) -> None:
    async with Runtime(make_store(), backend) as runtime:
        ref = await over(runtime, backend)
        outcomes = await asyncio.gather(*(runtime.delete_worker(ref) for _ in range(3)), return_exceptions=True)
        assert outcomes == [None, None, None]
        assert backend.calls.count(f"delete {ref.worker_id}") == 1
        with pytest.raises(WorkerNotFound):
            await runtime.delete_worker(ref)


async def test_commands_decided_together_with_a_deletion_take_effect_before_it(
    slow_store: SlowStore, backend: FakeBackend
) -> None:
    async with Runtime(slow_store, backend) as runtime:
        ref = (await runtime.create_worker()).worker_ref
        subscriber = RecordingSubscriber()
        runtime.subscribe(subscriber)
        slow_store.may.clear()
        await backend.say(ref.worker_id, TextDelta("on its way"))
        stopping = asyncio.ensure_future(runtime.stop_worker(ref))
        await until(lambda: "stop" in backend.calls)
        deleting = asyncio.ensure_future(runtime.delete_worker(ref))
        for _ in range(5):
            await asyncio.sleep(0)
        slow_store.may.set()
        assert (await stopping).status == "stopped"
        await deleting
        assert runtime.workers() == ()
        assert [json.loads(event.payload)["event"] for event in subscriber.events][-1] == "shutdown"
        assert [event.kind for event in await runtime.runtime_events()][-1] == "worker_stopped"


async def test_subscribers_are_notified_that_a_worker_is_deleted(
    runtime: Runtime, backend: FakeBackend, published: conftest.RecordingSubscriber
) -> None:
    ref = await over(runtime, backend)
    await runtime.delete_worker(ref)
    assert published.forgotten == [ref.worker_id]


async def test_a_deletion_that_a_crash_cut_is_finished_at_the_next_start(
    make_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        pass

    async def cut(_worker_id: WorkerId) -> NoReturn:
        raise Cut

    store = make_store()
    with monkeypatch.context() as patched:
        async with Runtime(store, backend) as runtime:
            ref = await over(runtime, backend)
            patched.setattr(store, "purge", cut)
            await runtime.delete_worker(ref)
    backend.calls.clear()
    again = make_store()
    async with Runtime(again, backend) as runtime:
        assert runtime.workers() == ()
        await until(lambda: again.event_bytes == 0)
        assert f"delete {ref.worker_id}" in backend.calls


async def test_a_backend_that_fails_to_delete_does_not_keep_stored_data(
    make_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> NoReturn:
        raise OSError("its folder is busy")

    monkeypatch.setattr(type(backend), "delete", broken)
    store = make_store()
    async with Runtime(store, backend) as runtime:
        ref = await over(runtime, backend)
        await runtime.delete_worker(ref)
        await until(lambda: store.event_bytes == 0)
    (found,) = [record for record in caplog.records if "execution backend" in record.getMessage()]
    assert (vars(found)["worker_id"], str(vars(found)["reason"])) == (ref.worker_id, "its folder is busy")


def failures(runtime: Runtime) -> list[Diagnostic]:
    return [diagnostic for diagnostic in runtime.diagnostics() if diagnostic.code == "worker.delete_failed"]


async def test_a_failed_deletion_of_a_backend_is_a_diagnostic_until_a_later_start_succeeds(
    make_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def busy(*_: object) -> NoReturn:
        nonlocal tries
        tries += 1
        raise OSError(16, "it is busy", "/the/path/of/it")

    store = make_store()
    with monkeypatch.context() as broken:
        broken.setattr(type(backend), "delete", busy)
        async with Runtime(store, backend) as runtime:
            ref, kept = await over(runtime, backend), await over(runtime, backend)
            await runtime.delete_worker(ref)
            await until(lambda: failures(runtime))
            [told] = failures(runtime)
            assert (told.severity, told.worker_id) == ("error", ref.worker_id)
            assert "it is busy" in told.message
            assert "/the/path" not in told.message
            before = runtime.summary().diagnostic_count
        async with Runtime(make_store(), backend) as runtime:
            await until(lambda: tries == 2 and runtime.diagnostics()[-1] == told)
            assert failures(runtime) == [told]
            assert runtime.summary().diagnostic_count == before
            assert [worker.worker_id for worker in runtime.workers()] == [kept.worker_id]
            assert (await runtime.check()).findings == ()
    backend.calls.clear()
    store, purged = make_store(), []

    async def purge(worker_id: WorkerId) -> bool:
        if is_gone := await type(store).purge(store, worker_id):
            purged.append(worker_id)
        return is_gone

    monkeypatch.setattr(store, "purge", purge)
    async with Runtime(store, backend) as runtime:
        await until(lambda: not failures(runtime) and purged)  # cut off amid a purge, the next start tries all again
        assert backend.calls.count(f"delete {ref.worker_id}") == 1
    backend.calls.clear()
    async with Runtime(make_store(), backend) as runtime:
        assert failures(runtime) == []
        await runtime.delete_worker(kept)
        await until(lambda: f"delete {kept.worker_id}" in backend.calls)
        assert f"delete {ref.worker_id}" not in backend.calls


async def test_a_failed_deletion_is_retried_though_the_runtime_was_closed_during_it(
    make_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, store = asyncio.Event(), make_store()

    async def busy(*_: object) -> NoReturn:
        failing.set()
        raise OSError(16, "it is busy")

    with monkeypatch.context() as broken:
        broken.setattr(type(backend), "delete", busy)
        async with Runtime(store, backend) as runtime:
            ref = await over(runtime, backend)
            await runtime.delete_worker(ref)
            await asyncio.wait_for(failing.wait(), 10)
    backend.calls.clear()
    async with Runtime(make_store(), backend) as runtime:
        await until(lambda: f"delete {ref.worker_id}" in backend.calls)
        await until(lambda: not failures(runtime))


async def test_a_failed_deletion_is_retried_although_a_close_came_right_after_the_purge(
    make_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise OSError(16, "it is busy")

    for turns in range(8):
        store, purged, may_end = make_store(), asyncio.Event(), asyncio.Event()

        async def purge(
            name: WorkerId, store: Store = store, purged: asyncio.Event = purged, may_end: asyncio.Event = may_end
        ) -> bool:
            is_gone = await type(store).purge(store, name)
            purged.set()
            await may_end.wait()
            return is_gone

        with monkeypatch.context() as broken:
            async with Runtime(store, backend) as runtime:
                ref = await over(runtime, backend)
                broken.setattr(type(backend), "delete", busy)
                broken.setattr(store, "purge", purge)
                await runtime.delete_worker(ref)
                await asyncio.wait_for(purged.wait(), 10)
                closing = asyncio.create_task(runtime.close())
                for _ in range(turns):
                    await asyncio.sleep(0)
                may_end.set()
                await closing
        backend.calls.clear()

        async with Runtime(make_store(), backend) as runtime:
            await until(partial(backend.calls.__contains__, f"delete {ref.worker_id}"))


async def test_an_error_that_ends_the_removal_of_a_deleted_worker_is_logged(
    make_store: MakeStore, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store()

    async def broken(_worker_id: WorkerId) -> NoReturn:
        raise StoreIo("the disk is gone")

    async with Runtime(store, backend) as runtime:
        ref = await over(runtime, backend)
        monkeypatch.setattr(store, "purge", broken)
        await runtime.delete_worker(ref)
        await until(lambda: "the disk is gone" in caplog.text)
    (found,) = [record for record in caplog.records if "the next start tries again" in record.getMessage()]
    assert vars(found)["worker_id"] == ref.worker_id


async def test_a_full_disk_keeps_the_worker(failing_store: FailingStore, backend: FakeBackend) -> None:
    async with Runtime(failing_store, backend) as runtime:
        ref = await over(runtime, backend)
        failing_store.fault = StoreFull("full")
        with pytest.raises(StoreFull):
            await runtime.delete_worker(ref)
        failing_store.fault = None
        assert runtime.worker(ref).status == "stopped"
        await runtime.delete_worker(ref)
        assert runtime.workers() == ()


async def test_a_worker_is_deleted_though_its_events_are_being_trimmed(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    from runtimed.core.limits import Limits

    async with Runtime(make_store(), backend, limits=Limits(max_events_per_worker=5)) as runtime:
        for _ in range(20):
            ref = await over(runtime, backend)
            await runtime.delete_worker(ref)
        assert runtime.workers() == ()
    async with Runtime(make_store(), backend) as runtime:
        assert runtime.workers() == ()


async def test_runtime_events_record_runtime_and_workers_by_id_over_restarts(
    make_store: MakeStore, backend: FakeBackend
) -> None:
    async with Runtime(make_store(), backend) as runtime:
        ref = await over(runtime, backend)
        other = await runtime.create_worker()
        await runtime.cancel_worker(other.worker_ref)
    async with Runtime(make_store(), backend) as runtime:
        told = await runtime.runtime_events()
        assert [event.id for event in told] == list(range(1, 9))
        assert [(event.kind, event.worker_id) for event in told] == [
            ("runtime_started", None),
            ("worker_created", ref.worker_id),
            ("worker_input_accepted", ref.worker_id),
            ("worker_stopped", ref.worker_id),
            ("worker_created", other.worker_id),
            ("worker_cancelled", other.worker_id),
            ("runtime_stopped", None),
            ("runtime_started", None),
        ]
        assert [event.id for event in await runtime.runtime_events(after=3, limit=2)] == [4, 5]
        assert runtime.newest_runtime_event == 8
