"""An upstream that records what reaches it, and a client of a gateway in front of it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import attrs
import pytest
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, web
from multidict import CIMultiDict
from yarl import URL

from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import Gateway, Secret
from runtimed.gateways.gateway import GatewayService
from runtimed.gateways.http_service import HttpService
from runtimed.gateways.upstreams import Upstreams
from tests.event_loops import loop_factories

REAL_KEY = "sk-real-0123456789abcdef"
DEADLINE_S = 30.0
HEADERS = {"Authorization": "Bearer secret:openai"}

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, Any]:
    """Every test here runs on the standard event loop or on uvloop, or on both, as the daemon does."""
    return loop_factories(config)


def listen() -> socket.socket:
    """Return a socket that listens on a free loopback port."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"http://{host}:{port}"


@attrs.define
class Upstream:
    """An HTTP server that records requests. `handler` answers them.

    Attributes:
        seen: The method, target and headers of each request, and the body where the default handler read it.
    """

    url: str = ""
    handler: Handler | None = None
    seen: list[tuple[str, str, CIMultiDict[str]]] = attrs.field(factory=list)
    bodies: list[bytes] = attrs.field(factory=list)

    @property
    def headers(self) -> CIMultiDict[str]:
        """The headers of the last request."""
        return self.seen[-1][2]

    @property
    def targets(self) -> list[str]:
        return [f"{method} {target}" for method, target, _ in self.seen]

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, CIMultiDict(request.headers)))
        if self.handler is not None:
            return await self.handler(request)
        self.bodies.append(await request.read())
        return web.json_response({"ok": True})


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve HTTP by a handler, and give the URL."""
    server = web.Server(handler, auto_decompress=False, access_log=None)
    listener = listen()
    url = address(listener)
    listening = await asyncio.get_running_loop().create_server(server, sock=listener)
    try:
        yield url
    finally:
        listening.close()
        await server.shutdown(0.1)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    async with serving(made.answer) as url:
        made.url = url
        yield made


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.close()


@attrs.define
class Reached:
    """A gateway that listens, and a client of it.

    Attributes:
        service: The gateway.
        url: Its URL.
        session: A client without headers of its own.
    """

    service: GatewayService
    url: str
    session: ClientSession

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.service.key}"}

    async def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> tuple[int, CIMultiDict[str], bytes]:
        """Send a request with the throwaway key. Returns the status, the headers and the body of the response."""
        async with self.session.request(
            method,
            URL(self.url + path, encoded=True),
            headers={**self.bearer, **(headers or {})},
            data=data,
            allow_redirects=False,
        ) as response:
            return response.status, CIMultiDict(response.headers), await response.read()

    async def send(self, data: bytes) -> bytes:
        """Send bytes on a connection of its own, and return what comes until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(self.url).port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), DEADLINE_S)
        finally:
            writer.close()


Reach = Callable[..., Awaitable[Reached]]


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession(
        auto_decompress=False, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=DEADLINE_S)
    ) as session:
        yield session


async def serve(service: HttpService) -> str:
    """Let a service serve on a free port, and return its URL."""
    listener = listen()
    url = address(listener)
    await service.serve(listener)
    return url


@pytest.fixture
async def reach(upstream: Upstream, upstreams: Upstreams) -> AsyncIterator[Reach]:
    """Return a function that makes a gateway in front of the upstream, or as its keyword arguments say."""
    async with contextlib.AsyncExitStack() as stack:

        async def reach(
            *,
            environ: Mapping[str, str] | None = None,
            shared: Upstreams | None = None,
            secrets: Secrets | None = None,
            **options: object,
        ) -> Reached:
            variables = {"OPENAI_KEY": REAL_KEY} if environ is None else environ
            given = secrets or Secrets({"openai": Secret(env="OPENAI_KEY")}, variables)
            values = {"upstream": f"{upstream.url}/v1", "headers": HEADERS, "allow": ("POST /responses", "GET /*")}
            gateway = Gateway(**{**values, **options})  # type: ignore[arg-type] # the options of a test
            service = GatewayService("openai", gateway, given, shared or upstreams)
            stack.push_async_callback(service.close)
            return Reached(service, await serve(service), await stack.enter_async_context(client()))

        yield reach
