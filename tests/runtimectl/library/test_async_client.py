"""The asynchronous client against a real daemon: the same as the other one, with await and async for."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from runtimectl import AsyncClient, Client
from runtimectl.errors import ApiError, TimedOut, Unreachable
from runtimectl.library.async_worker import AsyncWorker
from runtimectl.library.worker import Worker
from runtimed.model.event import RunEnd, Shutdown, Snapshot, TextDone
from tests.runtimectl.conftest import DEADLINE_S, Daemon
from tests.runtimectl.library.test_client import new_bundle

SAME_NAMES = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


@pytest.fixture
async def aclient(daemon: Daemon, token_file: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(daemon.url, token_file=str(token_file)) as found:
        yield found


@pytest.mark.parametrize(("kind", "other"), [(Client, AsyncClient), (Worker, AsyncWorker)])
def test_both_clients_have_the_same_methods_with_the_same_parameters(kind: type, other: type) -> None:
    def methods(of: type) -> dict[str, list[str]]:
        found = inspect.getmembers(of, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}

    assert methods(kind) == methods(other)


async def test_a_worker_is_created_used_read_and_deleted(aclient: AsyncClient) -> None:
    worker = await aclient.create_worker(name="first", labels={"team": "a"})

    ack = await worker.input("hello")
    payloads = []
    async with worker.events(ack.cursor) as events:
        async for event in events:
            payloads.append(event.payload)
            if isinstance(event.payload, RunEnd):
                break
    stopped = await worker.stop("done")
    entries = await worker.transcript()
    listed = await aclient.workers("stopped", labels={"team": "a"})
    await worker.delete()

    assert TextDone("hello") in payloads
    assert (stopped.status, [entry.content for entry in entries]) == ("stopped", ["hello", "hello"])
    assert [found.worker_id for found in listed] == [worker.id]
    assert await aclient.workers() == ()


async def test_events_begin_with_a_snapshot_or_behind_a_cursor_and_end_where_the_worker_is_over(
    aclient: AsyncClient,
) -> None:
    worker = await aclient.create_worker()
    live = worker.events()
    snapshot = await anext(live)
    await worker.input("hello")
    await worker.stop()

    assert isinstance(snapshot.payload, Snapshot)
    assert [event.payload async for event in live][-1] == Shutdown()
    behind = [event async for event in worker.events("wo_0000000000000000")]
    assert behind[-1].payload == Shutdown()


async def test_events_of_all_workers_go_on_behind_a_cursor(aclient: AsyncClient) -> None:
    worker = await aclient.create_worker(labels={"team": "a"})
    ack = await worker.input("hello")
    await aclient.create_worker(labels={"team": "b"})

    async with aclient.events({"team": "a"}, "wo_0000000000000000") as events:
        first = await anext(events)

    assert (first.worker_id, first.cursor) == (worker.id, ack.cursor)


async def test_an_error_of_the_daemon_has_its_code_status_and_message(aclient: AsyncClient) -> None:
    worker = aclient.worker("worker-0000ffff")

    for ask in (worker.detail, worker.events().__anext__):
        with pytest.raises(ApiError) as refused:
            await ask()
        assert (refused.value.code, refused.value.status) == ("worker_not_found", 404)


async def test_a_wrong_token_is_an_error_of_the_daemon(daemon: Daemon) -> None:
    async with AsyncClient(daemon.url, "not-the-token-of-this-daemon") as client:
        with pytest.raises(ApiError) as refused:
            await client.runtime()
    assert refused.value.code == "unauthorized"


async def test_a_daemon_that_is_not_there_fails_at_once_and_one_that_is_silent_after_the_timeout(
    dead_url: str, serve_raw: Callable[[Callable[[socket.socket], object]], str]
) -> None:
    async with AsyncClient(dead_url, "x" * 16) as client:
        with pytest.raises(Unreachable):
            await client.create_worker()

    silent_url = serve_raw(lambda connection: connection.recv(1 << 16) and connection.recv(1))
    async with AsyncClient(silent_url, "x" * 16, timeout=0.2) as client:
        with pytest.raises(TimedOut, match=r"within 0.2 s"):
            await client.runtime()


async def test_a_client_speaks_over_a_unix_socket(
    start_daemon: Callable[..., Daemon], token_file: Path, tmp_path: Path
) -> None:
    await asyncio.to_thread(
        start_daemon, "--store", "memory", "--listen", f"unix:{tmp_path}/socket", "--token-file", str(token_file)
    )
    async with AsyncClient(f"unix:{tmp_path}/socket", token_file=str(token_file)) as client:
        worker = await client.create_worker()
        await worker.stop()
        assert [event.payload async for event in worker.events("wo_0000000000000000")] == [Shutdown()]


async def test_many_tasks_use_one_client_at_once(aclient: AsyncClient) -> None:
    workers = await asyncio.gather(*(aclient.create_worker() for _ in range(8)))

    assert len({worker.id for worker in workers}) == 8


async def test_bundles_profiles_permissions_and_waits_answer_as_those_of_the_other_client(
    aclient: AsyncClient, daemon: Daemon, token_file: Path
) -> None:
    client = await asyncio.to_thread(Client, daemon.url, token_file=str(token_file))
    bundle = new_bundle()
    worker = await aclient.create_worker()

    stored = await aclient.push_bundle(bundle)
    digest = bundle.metadata.digest

    assert (
        await aclient.bundles(),
        await aclient.check_bundle("bundle-1", digest),
        await aclient.check_bundle_on_host("bundle-1", digest),
        await aclient.profiles(),
        await aclient.permissions(),
        await worker.detail(),
    ) == await asyncio.to_thread(
        lambda: (
            client.bundles(),
            client.check_bundle("bundle-1", digest),
            client.check_bundle_on_host("bundle-1", digest),
            client.profiles(),
            client.permissions(),
            client.worker(worker.id).detail(),
        )
    )
    assert await aclient.bundles() == (stored.summary,)
    assert await worker.permissions() == ()
    assert repr(worker) == f"AsyncWorker({worker.id!r})"
    assert (await worker.wait("idle", timeout=DEADLINE_S)).matched == "idle"
    assert (await worker.restore()).worker_id == worker.id
    assert (await worker.cancel("enough")).status == "cancelled"
    with pytest.raises(ApiError, match="wait_impossible"):
        await worker.wait("busy")


async def test_events_of_all_workers_begin_with_those_from_now_on(aclient: AsyncClient) -> None:
    before = await aclient.create_worker()
    await before.input("before")
    await before.stop()

    async with aclient.events() as events:
        first = asyncio.ensure_future(anext(events))
        while not first.done():
            after = await aclient.create_worker()
            await after.input("after")
            await asyncio.wait((first,), timeout=0.1)

    assert first.result().worker_id != before.id
