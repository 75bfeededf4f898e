"""The application on a real socket of the test's own, with the real backends."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs
import pytest

from runtimed.core import Runtime
from runtimed.execution.registry import ProfileRegistry
from runtimed.http import make_app
from runtimed.http.server import HttpServer
from runtimed.store.folder import StoreFolder
from runtimed.store.memory import MemoryStore

TOKEN = "the-token-of-these-tests"


@attrs.frozen
class Served:
    """A running server and how to reach it."""

    runtime: Runtime
    url: str
    port: int
    server: HttpServer
    client: aiohttp.ClientSession


@asynccontextmanager
async def serving(runtime: Runtime, server_options=None, **options) -> AsyncIterator[Served]:
    app = make_app(runtime, token=TOKEN, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = HttpServer(app, **(server_options or {}))
    port = listener.getsockname()[1]
    await server.start([listener])
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            yield Served(runtime, f"http://127.0.0.1:{port}", port, server, client)
    finally:
        await server.close()


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    backend = ProfileRegistry({}, workspaces=StoreFolder(tmp_path))
    async with Runtime(MemoryStore(), backend) as running:
        yield running


@pytest.fixture
async def served(runtime: Runtime) -> AsyncIterator[Served]:
    async with serving(runtime) as found:
        yield found
