"""The application as another aiohttp program mounts it."""

import asyncio
import json
import socket

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient, AiohttpServer

from runtimed.core import Runtime
from runtimed.http import make_app
from runtimed.settings import Settings, load
from runtimed.store.memory import MemoryStore
from tests.http.conftest import Served

from .conftest import BEARER, TOKEN, serving


async def test_it_can_be_mounted_in_another_application_on_a_socket_that_somebody_else_bound(
    aiohttp_client: AiohttpClient, aiohttp_server: AiohttpServer
) -> None:
    async with Runtime(MemoryStore()) as runtime:
        parent = web.Application()

        async def home(_request: web.Request) -> web.Response:
            return web.Response(text="home")

        parent.router.add_get("/", home)
        parent.add_subapp("/agents/", make_app(runtime, token=TOKEN))
        client: TestClient[web.Request, None] = await aiohttp_client(await aiohttp_server(parent))
        async with client.get("/") as answer:
            assert await answer.text() == "home"
        async with client.get("/agents/v1/runtime") as answer:
            assert answer.status == 401
        async with client.get("/agents/v1/runtime", headers=BEARER) as answer:
            assert (await answer.json())["runtime"]["runtime_id"] == runtime.runtime_id
        async with client.get("/agents/nothing", headers=BEARER) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


async def test_without_a_token_everybody_is_let_in_but_browsers_and_strangers_are_not(
    aiohttp_client: AiohttpClient,
) -> None:
    async with Runtime(MemoryStore()) as runtime:
        client: TestClient[web.Request, web.Application] = await aiohttp_client(make_app(runtime, token=None))
        own = str(client.make_url("/"))
        requests: list[tuple[dict[str, str], int]] = [
            ({}, 200),
            ({"Origin": own}, 403),
            ({"Host": "evil.example"}, 421),
        ]
        for headers, status in requests:
            async with client.get("/v1/runtime", headers=headers) as answer:
                assert answer.status == status


async def test_observers_are_told_when_it_shuts_down(runtime: Runtime) -> None:
    async with serving(runtime) as served:
        async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
            worker_id = (await answer.json())["worker"]["worker_id"]
        observer = await served.client.ws_connect(f"{served.url}/v1/workers/{worker_id}/events/ws")
        await observer.receive()
        observing = asyncio.ensure_future(drained(observer))
        await served.server.close()
        frames, code = await observing
    assert json.loads(frames[-1])["diagnostic"]["code"] == "runtime.upstream_closed"
    assert code == aiohttp.WSCloseCode.GOING_AWAY


async def test_an_observer_that_does_not_read_cannot_hold_up_the_end(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("streams", "sockets"):
        monkeypatch.setattr(f"runtimed.http.streaming.{module}.CLOSE_TIMEOUT_S", 0.2)
    async with serving(runtime, {"drain_timeout_s": 0.2}) as served:
        async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
            worker_id = (await answer.json())["worker"]["worker_id"]
        handshake = f"GET /v1/workers/{worker_id}/events/ws HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        handshake += f"Authorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        handshake += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        loop = asyncio.get_running_loop()
        with socket.socket() as observer:
            observer.setblocking(False)
            await loop.sock_connect(observer, ("127.0.0.1", served.port))
            await loop.sock_sendall(observer, handshake.encode())
            assert (await loop.sock_recv(observer, 12)) == b"HTTP/1.1 101"
            for _ in range(12):
                content = {"kind": "user", "content": "x" * 900_000}
                async with served.client.post(f"{served.url}/v1/workers/{worker_id}/input", json=content) as answer:
                    assert answer.status in {200, 409}
            async with asyncio.timeout(10):
                await served.server.close()


async def drained(observer: aiohttp.ClientWebSocketResponse) -> tuple[list[str], int | None]:
    frames = []
    async with asyncio.timeout(10):
        while (message := await observer.receive()).type is WSMsgType.TEXT:
            frames.append(message.data)
    return frames, observer.close_code


async def test_observers_that_leave_leave_no_task_behind(served: Served) -> None:
    async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
        worker_id = (await answer.json())["worker"]["worker_id"]
    before = len(asyncio.all_tasks())
    url = f"{served.url}/v1/workers/{worker_id}/events/ws"
    for _ in range(5):
        observers = [await served.client.ws_connect(url) for _ in range(20)]
        for observer in observers:
            await observer.receive()
        await asyncio.gather(*(observer.close() for observer in observers))
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before + 2:
            await asyncio.sleep(0.01)


def test_the_settings_never_show_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIMED_TOKEN", TOKEN)
    settings = load({})
    assert settings.token == TOKEN
    assert TOKEN not in repr(settings)


@pytest.mark.parametrize("name", ["heartbeat_s", "max_body_bytes"])
def test_every_limit_is_a_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"RUNTIMED_{name.upper()}", "7")
    assert getattr(load({}), name) == 7
    assert getattr(Settings(), name) != 7
