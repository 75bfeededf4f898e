"""The application on a real socket of the test's own, with the real backends."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import attrs
import pytest
from aiohttp.test_utils import BaseTestServer, TestClient
from aiohttp.web import BaseRequest
from pytest_aiohttp import AiohttpClient
from yarl import URL

from runtimed.core import Runtime
from runtimed.execution.registry import ProfileRegistry
from runtimed.http import Api
from runtimed.http.server.http_server import HttpServer
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore

TOKEN = "the-token-of-these-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@attrs.frozen
class Served:
    """A running server and how to reach it."""

    runtime: Runtime
    url: str
    port: int
    server: HttpServer
    client: aiohttp.ClientSession | TestClient[BaseRequest, None]


class OwnServer(BaseTestServer):
    """The API behind the Runtime's own server, for `aiohttp_client`. Paths and whole URLs may be requested.

    Of what is written to a connection the kernel takes about `send_bytes`, by default as much as it likes.
    """

    quick_requests = True

    def __init__(self, api: Api, send_bytes: int | None = None, **options: Any) -> None:
        super().__init__()
        self.send_bytes = send_bytes
        self.server = HttpServer(api, **{"quick_requests": self.quick_requests, **options})

    async def start_server(self, *_: Any, **__: Any) -> None:
        if self._root is None:
            listener = socket.create_server((self.host, 0))
            listener.setblocking(False)
            if self.send_bytes is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_bytes)
            self.port = listener.getsockname()[1]
            await self.server.start([listener])
            self._root = URL(f"http://{self.host}:{self.port}")

    async def _make_runner(self, **_: Any) -> NoReturn:
        raise AssertionError("HttpServer has no runner")

    def make_url(self, path: str | URL) -> URL:
        assert self._root is not None
        return self._root.join(URL(path))

    async def close(self) -> None:
        await self.server.close()

    def serves(self, runtime: Runtime, client: aiohttp.ClientSession | TestClient[BaseRequest, None]) -> Served:
        """This server as tests see it."""
        assert self.port is not None
        return Served(runtime, f"http://{self.host}:{self.port}", self.port, self.server, client)


@asynccontextmanager
async def serving(
    runtime: Runtime, server_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Served]:
    """A server that a test opens and closes by itself."""
    api = Api(runtime, token=TOKEN, **options)
    async with OwnServer(api, **(server_options or {})) as server, aiohttp.ClientSession(headers=BEARER) as client:
        assert isinstance(server, OwnServer)
        yield server.serves(runtime, client)


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    backend = ProfileRegistry({}, workspaces=DataDir(tmp_path))
    async with Runtime(MemoryStore(), backend) as running:
        yield running


class Clock:
    """The time of the running loop, which goes on by itself and can be put forward."""

    def __init__(self) -> None:
        self._real = asyncio.get_running_loop().time
        self._ahead_s = 0.0

    def time(self) -> float:
        return self._real() + self._ahead_s

    def skip(self, seconds: float) -> None:
        self._ahead_s += seconds


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    return clock


@pytest.fixture(params=[True, False], ids=["quick", "aiohttp"])
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test twice: with plain requests answered at once, and with aiohttp answering every request."""
    monkeypatch.setattr(OwnServer, "quick_requests", request.param)
    return bool(request.param)


@pytest.fixture
async def served(runtime: Runtime, aiohttp_client: AiohttpClient, quick: bool) -> Served:
    server = OwnServer(Api(runtime, token=TOKEN))
    return server.serves(runtime, await aiohttp_client(server, headers=BEARER))
