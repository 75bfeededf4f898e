"""Observers over HTTP, whatever they are written: the end of their token."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from runtimed.core import Runtime
from runtimed.feed.observer import MAX_UNSENT
from runtimed.model.token import CreateTokenRequest
from tests.http.conftest import Clock, Served, Transport, serving
from tests.http.streaming.conftest import CLOSE, DEADLINE_S, TEXT, dialed, observing, say


@pytest.fixture
async def served(runtime: Runtime, tcp_or_tls: Transport, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A server that waits long for observers that it closes for another reason."""
    for module in ("sockets", "server_sent_events"):
        monkeypatch.setattr(f"runtimed.http.streaming.{module}.CLOSE_TIMEOUT_S", 3_600.0)
    async with serving(runtime, {"send_bytes": 65_536, "transport": tcp_or_tls}) as served:
        yield served


async def make_token(served: Served) -> str:
    return (await served.runtime.create_token(CreateTokenRequest("leaver", "observer"))).secret


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


def is_gone(transport: asyncio.WriteTransport) -> bool:
    """Whether the kernel has the connection no more."""
    return bool(transport.get_extra_info("socket").fileno() < 0)


def stop_reading(writer: asyncio.StreamWriter) -> None:
    assert isinstance(writer.transport, asyncio.Transport)
    writer.transport.pause_reading()


async def leave_unread(served: Served, worker_id: str, transport: asyncio.WriteTransport) -> None:
    """Have an echo Worker say more than the kernel takes for an observer that does not read."""
    while transport.get_write_buffer_size() <= MAX_UNSENT:
        await say(served, worker_id, "x" * 20_000)


async def test_a_socket_whose_client_does_not_answer_the_close_is_cut_soon_after_its_token_ends(
    served: Served, observed: list[asyncio.WriteTransport], clock: Clock
) -> None:
    async with observing(served, token=await make_token(served)) as observer:
        assert (await observer.frame())[0] == TEXT

        await served.runtime.revoke_token("leaver")

        assert await observer.frame() == (CLOSE, struct.pack("!H", 1008) + b"token revoked or expired")
        clock.skip(2.0)
        assert await observer.frames() == []
        await until(lambda: is_gone(observed[0]))


@pytest.mark.parametrize("closes", [False, True], ids=["silent", "closing"])
async def test_a_socket_whose_client_does_not_read_is_cut_soon_after_its_token_ends(
    served: Served, observed: list[asyncio.WriteTransport], clock: Clock, closes: bool
) -> None:
    async with observing(served, token=await make_token(served)) as observer:
        assert (await observer.frame())[0] == TEXT
        stop_reading(observer.writer)
        await leave_unread(served, observer.worker_id, observed[0])
        if closes:
            observer.send(0x80 | CLOSE, struct.pack("!H", 1000))

        await served.runtime.revoke_token("leaver")

        clock.skip(2.0)
        await until(lambda: is_gone(observed[0]))


async def test_a_stream_whose_client_does_not_read_is_cut_soon_after_its_token_ends(
    served: Served, observed: list[asyncio.WriteTransport], clock: Clock
) -> None:
    async with served.client.post(f"{served.url}/v1/workers", json={}) as answer:
        worker_id = (await answer.json())["worker"]["worker_id"]
    async with streaming(served, worker_id, await make_token(served)) as writer:
        stop_reading(writer)
        await leave_unread(served, worker_id, observed[0])

        await served.runtime.revoke_token("leaver")

        clock.skip(2.0)
        await until(lambda: is_gone(observed[0]))


@contextlib.asynccontextmanager
async def streaming(served: Served, worker_id: str, token: str) -> AsyncIterator[asyncio.StreamWriter]:
    """A client of an event stream that has read its head."""
    async with dialed(served) as (reader, writer):
        head = f"GET /v1/workers/{worker_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        writer.write(f"{head}Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        yield writer
