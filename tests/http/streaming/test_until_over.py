"""Feeds that end behind the last event of a Worker that is over: `?until=over`, on sockets and on event streams."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager

import aiohttp
import pytest

from runtimed.core import Runtime
from runtimed.model.interaction import WorkerInput
from runtimed.model.worker import WorkerDetail
from tests.http.conftest import Served, serving

START = "wo_0000000000000000"
DEADLINE_S = 10


@pytest.fixture
async def worker(served: Served) -> WorkerDetail:
    """A Worker that has answered one input."""
    worker = await served.runtime.create_worker()
    await served.runtime.send_input(worker.worker_ref, WorkerInput("user", "hello"))
    async with asyncio.timeout(DEADLINE_S):
        while served.runtime.worker(worker.worker_ref).execution.run_state == "busy":
            await asyncio.sleep(0.01)
    return worker


async def to_the_end(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[str], tuple[int, str | None]]:
    """The names of all events of a socket, then its close code and reason."""
    names: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            frame = json.loads(message.data)
            assert frame["kind"] == "event", frame
            names.append(frame["envelope"]["payload"]["event"])
    assert message.type is aiohttp.WSMsgType.CLOSE
    return names, (message.data, message.extra)


async def stream_to_the_end(served: Served, worker: WorkerDetail, query: str) -> list[str]:
    url = f"{served.url}/v1/workers/{worker.worker_id}/events?{query}"
    async with asyncio.timeout(DEADLINE_S):
        async with served.client.get(url, headers={"Accept": "text/event-stream"}) as answer:
            assert answer.status == 200
            text = await answer.text()
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


def observe(
    served: Served, worker: WorkerDetail, query: str
) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
    return served.client.ws_connect(f"{served.url}/v1/workers/{worker.worker_id}/events/ws?{query}")


@pytest.mark.parametrize("end", ["stop_worker", "cancel_worker"])
async def test_a_socket_that_waits_for_the_end_is_closed_behind_the_last_event(
    served: Served, worker: WorkerDetail, end: str
) -> None:
    async with observe(served, worker, "until=over") as socket:
        assert json.loads((await socket.receive()).data)["envelope"]["payload"]["event"] == "snapshot"

        await getattr(served.runtime, end)(worker.worker_ref)

        assert await to_the_end(socket) == (["shutdown"], (1000, "worker over"))


async def test_a_socket_of_a_worker_that_is_over_replays_and_is_closed(served: Served, worker: WorkerDetail) -> None:
    await served.runtime.stop_worker(worker.worker_ref)

    async with observe(served, worker, f"until=over&cursor={START}") as socket:
        names, closed = await to_the_end(socket)

    assert (names[0], names[1], names[-1]) == ("snapshot", "user_message", "shutdown")
    assert closed == (1000, "worker over")


async def test_a_socket_at_the_last_event_of_a_worker_that_is_over_gets_the_snapshot_alone(
    served: Served, worker: WorkerDetail
) -> None:
    await served.runtime.stop_worker(worker.worker_ref)

    async with observe(served, worker, "until=over") as socket:
        assert await to_the_end(socket) == (["snapshot"], (1000, "worker over"))


async def test_a_feed_that_shows_no_last_event_ends_all_the_same(served: Served, worker: WorkerDetail) -> None:
    async with observe(served, worker, "until=over&events=text_done") as socket:
        await socket.receive()

        await served.runtime.stop_worker(worker.worker_ref)

        assert await to_the_end(socket) == ([], (1000, "worker over"))


async def test_a_socket_that_asked_for_no_end_stays_open(served: Served, worker: WorkerDetail) -> None:
    async with observe(served, worker, "") as waiting, observe(served, worker, "until=over") as ending:
        await waiting.receive(), await ending.receive()

        await served.runtime.stop_worker(worker.worker_ref)

        assert (await to_the_end(ending))[0] == ["shutdown"]
        assert json.loads((await waiting.receive()).data)["envelope"]["payload"]["event"] == "shutdown"
        await waiting.ping()
        with pytest.raises(TimeoutError):
            await waiting.receive(timeout=0.3)


@pytest.mark.parametrize("over", [True, False], ids=["over before", "over later"])
async def test_an_event_stream_ends_behind_the_last_event(served: Served, worker: WorkerDetail, over: bool) -> None:
    if over:
        await served.runtime.stop_worker(worker.worker_ref)
    reading = asyncio.create_task(stream_to_the_end(served, worker, f"until=over&cursor={START}"))
    if not over:
        await served.runtime.stop_worker(worker.worker_ref)

    names = await reading

    assert (names[0], names[1], names[-1]) == ("snapshot", "user_message", "shutdown")


async def test_a_daemon_that_shuts_down_tells_so_where_the_worker_goes_on(runtime: Runtime) -> None:
    async with serving(runtime) as served:
        worker = await runtime.create_worker()
        async with observe(served, worker, "until=over") as socket:
            await socket.receive()
            closing = asyncio.create_task(served.server.close())
            last = json.loads((await socket.receive(timeout=DEADLINE_S)).data)
        await closing
    assert last["diagnostic"]["code"] == "runtime.upstream_closed"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/workers/{}/events/ws?until=idle", "until: expected"),
        ("/v1/workers/{}/events?until=over", "until: accepted by WebSockets and event streams"),
        ("/v1/events?until=over", "until"),
        ("/v1/events/ws?until=over", "until"),
    ],
)
async def test_an_end_that_can_not_be_is_refused(served: Served, worker: WorkerDetail, path: str, said: str) -> None:
    async with served.client.get(f"{served.url}{path.format(worker.worker_id)}") as answer:
        body = await answer.json()
    assert (answer.status, body["error"]["code"]) == (400, "invalid_query")
    assert said in body["error"]["message"]
