"""Observers that do only what a test says."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from runtimed.feed.observer import Observer
from runtimed.feed.unread import Unread
from tests.http.conftest import TCP, TOKEN, Served, Streams, Transport

DEADLINE_S = 60
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class RawObserver:
    """A WebSocket client that does only what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker_id: str) -> None:
        self.reader = reader
        self.writer = writer
        self.worker_id = worker_id

    async def frame(self) -> tuple[int, bytes]:
        """The opcode and the payload of the next frame."""
        async with asyncio.timeout(DEADLINE_S):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                [size] = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0xF, await self.reader.readexactly(size)

    async def frames(self, *, answer_close: bool = False) -> list[tuple[int, bytes]]:
        """All frames up to the end of the connection."""
        found = []
        try:
            while True:
                found.append(await self.frame())
                if answer_close and found[-1][0] == CLOSE:
                    self.send(0x80 | CLOSE, found[-1][1][:2])
        except (asyncio.IncompleteReadError, ConnectionError):
            return found

    def send(self, first: int, payload: bytes = b"", size: int | None = None) -> None:
        """A frame with a mask of zeros; `size` is what its head says."""
        size = len(payload) if size is None else size
        length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack("!Q", size)
        self.writer.write(bytes([first]) + length + bytes(4) + payload)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.WriteTransport]:
    """The server's end of each observer's connection, oldest first."""
    transports: list[asyncio.WriteTransport] = []
    enter = Unread.enter

    def noting(unread: Unread, observer: Observer) -> None:
        transports.append(observer.transport)
        enter(unread, observer)

    monkeypatch.setattr(Unread, "enter", noting)
    return transports


@contextlib.asynccontextmanager
async def dialed(served: Served) -> AsyncIterator[Streams]:
    """A connection for which the kernel holds little that its client does not read."""
    with contextlib.ExitStack() as undo:
        client = undo.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", served.port))
        tls = Transport.used.get(served.port, TCP).client_tls
        name = None if tls is None else "127.0.0.1"
        reader, writer = await asyncio.open_connection(sock=client, ssl=tls, server_hostname=name)
        undo.pop_all()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def observing(
    served: Served, query: str = "", worker_id: str | None = None, token: str = TOKEN
) -> AsyncIterator[RawObserver]:
    """An observer of a new Worker or of this one."""
    if worker_id is None:
        async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
            worker_id = (await answer.json())["worker"]["worker_id"]
    head = f"GET /v1/workers/{worker_id}/events/ws{query} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
    head += f"Authorization: Bearer {token}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    async with dialed(served) as (reader, writer):
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        yield RawObserver(reader, writer, worker_id)


@pytest.fixture(params=["tcp", "tls"])
def tcp_or_tls(request: pytest.FixtureRequest) -> Transport:
    return TCP if request.param == "tcp" else Transport("tls", authority=request.getfixturevalue("authority"))


async def say(served: Served, worker_id: str, content: str) -> None:
    """Have an echo Worker answer, and wait for the end of its run."""
    url = f"{served.url}/v1/workers/{worker_id}/input"
    async with served.client.post(url, json={"kind": "user", "content": content}) as answer:
        assert answer.status == 200
    async with asyncio.timeout(DEADLINE_S):
        while served.runtime.worker(served.runtime.ref(worker_id)).execution.run_state == "busy":
            await asyncio.sleep(0.01)
