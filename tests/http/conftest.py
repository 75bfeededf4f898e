"""The application on a real socket of the test's own, with the real backends."""

import asyncio
import socket
import ssl
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
from runtimed.http.server.tls_context import TlsContext, TlsFiles
from runtimed.store.data_dir import DataDir
from runtimed.store.memory import MemoryStore
from tests.certificates import Authority

TOKEN = "the-token-of-these-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Transport:
    """What a server of a test is reached by: `tcp`, `tls` or `unix`."""

    listened: int = 0
    used: "dict[int, Transport]" = {}
    """The transports of servers by their ports; plain TCP for others."""

    def __init__(self, kind: str = "tcp", folder: Path = Path(), authority: Authority | None = None) -> None:
        self.kind = kind
        self._folder = folder
        self.server_tls: TlsContext | None = None
        self.client_tls: ssl.SSLContext | None = None
        if authority is not None:
            self.server_tls = TlsContext(TlsFiles(*authority.issue("server")))
            self.client_tls = authority.client_context()

    @property
    def scheme(self) -> str:
        """The scheme of URLs."""
        return "http" if self.server_tls is None else "https"

    def listen(self) -> tuple[socket.socket, int]:
        """Return a new listener and its port; for a Unix socket a number that stands for it."""
        if self.kind == "unix":
            Transport.listened += 1
            port, listener = Transport.listened, socket.socket(socket.AF_UNIX)
            listener.bind(self._path(port))
            listener.listen(1_024)
        else:
            listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
            port = listener.getsockname()[1]
        listener.setblocking(False)
        Transport.used[port] = self
        return listener, port

    def connector(self, port: int) -> aiohttp.BaseConnector:
        """Return what an aiohttp client of a server needs."""
        if self.kind == "unix":
            return aiohttp.UnixConnector(self._path(port))
        return aiohttp.TCPConnector(ssl=self.client_tls or True)

    async def connect(self, port: int) -> Streams:
        if self.kind == "unix":
            return await asyncio.open_unix_connection(self._path(port))
        return await asyncio.open_connection("127.0.0.1", port, ssl=self.client_tls)

    def _path(self, port: int) -> str:
        return str(self._folder / f"s{port}")


TCP = Transport()


async def dial(port: int) -> Streams:
    """Open a connection to a server of a test, by its transport."""
    return await Transport.used.get(port, TCP).connect(port)


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

    def __init__(self, api: Api, send_bytes: int | None = None, transport: Transport = TCP, **options: Any) -> None:
        super().__init__()
        self.send_bytes = send_bytes
        self.transport = transport
        options = {"quick_requests": self.quick_requests, "tls": transport.server_tls, **options}
        self.server = HttpServer(api, **options)
        self._listener, self.port = transport.listen()

    async def start_server(self, *_: Any, **__: Any) -> None:
        if self._root is None:
            if self.send_bytes is not None:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_bytes)
            await self.server.start([self._listener])
            self._root = URL(self.url)

    @property
    def url(self) -> str:
        return f"{self.transport.scheme}://{self.host}:{self.port}"

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
        return Served(runtime, self.url, self.port, self.server, client)


@asynccontextmanager
async def serving(
    runtime: Runtime, server_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Served]:
    """A server that a test opens and closes by itself."""
    made = OwnServer(Api(runtime, token=TOKEN, **options), **(server_options or {}))
    assert made.port is not None
    connector = made.transport.connector(made.port)
    async with made as server, aiohttp.ClientSession(headers=BEARER, connector=connector) as client:
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
def transport() -> Transport:
    return TCP


@pytest.fixture
async def served(runtime: Runtime, aiohttp_client: AiohttpClient, quick: bool, transport: Transport) -> Served:
    server = OwnServer(Api(runtime, token=TOKEN), transport=transport)
    assert server.port is not None
    connector = transport.connector(server.port)
    return server.serves(runtime, await aiohttp_client(server, headers=BEARER, connector=connector))
