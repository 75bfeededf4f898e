"""Feed sockets on the wire: pings, broken messages, and the end."""

import asyncio
import contextlib
import json
import struct

import pytest

from runtimed.core import Runtime
from runtimed.feed.observer import MAX_UNSENT
from runtimed.http.streaming.heartbeat import Heartbeat
from runtimed.http.streaming.sockets import MAX_MESSAGE_BYTES
from tests.http.conftest import TOKEN, Clock, Served, Transport, serving
from tests.http.streaming.conftest import CLOSE, DEADLINE_S, PING, PONG, TEXT, observing, say


async def test_an_observer_that_answers_no_ping_is_cut_and_one_that_does_is_not(
    runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.http.streaming.heartbeat.LATE_S", 30.0)
    async with serving(runtime, heartbeat_s=10.0) as served, observing(served) as dead, observing(served) as living:
        assert (await living.frame())[0] == TEXT

        async def answer() -> None:
            for _ in range(5):
                clock.skip(10.0)
                assert await living.frame() == (PING, b"")
                living.send(0x80 | PONG)
                async with served.client.get(f"{served.url}/v1/runtime") as answer:  # the pong is read before
                    assert answer.status == 200

        _, frames = await asyncio.gather(answer(), dead.frames())
        assert [opcode for opcode, _ in frames] == [TEXT, PING]
        living.send(0x80 | CLOSE, struct.pack("!H", 1000))
        assert (await living.frames())[-1] == (CLOSE, struct.pack("!H", 1000))


async def test_a_ping_of_the_observer_is_answered_with_what_it_holds(served: Served) -> None:
    async with observing(served) as observer:
        await observer.frame()
        observer.send(0x80 | PING, b"still there?")
        assert await observer.frame() == (PONG, b"still there?")


@pytest.mark.parametrize(
    ("first", "payload", "size", "code"),
    [
        (0x80 | TEXT, b"", MAX_MESSAGE_BYTES + 1, 1009),
        (0x80 | TEXT, b"\xff\xff", None, 1007),
        (0xF0 | TEXT, b"x", None, 1002),
        (0x80 | 0x3, b"x", None, 1002),
        (0x80, b"x", None, 1002),
    ],
    ids=["too long", "no UTF-8", "reserved bits", "unknown opcode", "continues nothing"],
)
async def test_a_broken_message_gets_a_diagnostic_and_the_close_of_the_protocol(
    served: Served, first: int, payload: bytes, size: int | None, code: int
) -> None:
    async with observing(served) as observer:
        await observer.frame()
        observer.send(first, payload, size)
        [(opcode, text), closing] = await observer.frames()
        assert opcode == TEXT
        assert json.loads(text)["diagnostic"]["code"] == "runtime.websocket_error"
        assert closing == (CLOSE, struct.pack("!H", code) + b"runtime.websocket_error")


@pytest.mark.parametrize("behind", [b"", b"\x8a\x80abcd"], ids=["first", "behind a masked one"])
@pytest.mark.parametrize("frame", [b"\x8a\x00", b"\x81\x02hi", b"\x88\x02\x03\xe8", b"\x81\x7e\x01\x00" + b"x" * 256])
async def test_a_frame_that_is_not_masked_is_refused(served: Served, frame: bytes, behind: bytes) -> None:
    async with observing(served) as observer:
        await observer.frame()
        observer.writer.write(behind + frame)
        [(opcode, text), closing] = await observer.frames()
        assert opcode == TEXT
        assert json.loads(text)["diagnostic"]["code"] == "runtime.websocket_error"
        assert closing == (CLOSE, struct.pack("!H", 1002) + b"runtime.websocket_error")


async def test_nothing_is_read_behind_a_handshake_that_is_refused(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = f"Host: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    plain = f"GET /v1/runtime HTTP/1.1\r\n{head}\r\n"
    writer.write(f"GET /v1/workers/worker-ffffffff/events/ws HTTP/1.1\r\n{head}{upgrade}\r\n{plain}".encode())
    async with asyncio.timeout(DEADLINE_S):
        said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 404 ")
    assert said.count(b"HTTP/1.1 ") == 1


async def test_an_observer_that_left_too_much_unread_is_told_so_before_it_is_closed(
    runtime: Runtime,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tcp_or_tls: Transport,
    observed: list[asyncio.WriteTransport],
) -> None:
    # One after the other leaves 64 KiB and a message unread, what asyncio takes before it says stop. The two that are
    # dismissed for that fit into the last eighth of the limit.
    def told() -> bool:
        return "max_unread_bytes is reached" in caplog.text

    monkeypatch.setattr("runtimed.http.streaming.sockets.CLOSE_TIMEOUT_S", 60.0)
    async with (
        serving(runtime, {"send_bytes": 65536, "transport": tcp_or_tls}, max_unread_bytes=1_000_000) as served,
        contextlib.AsyncExitStack() as stack,
    ):
        silent = []
        for _ in range(20):
            silent.append(await stack.enter_async_context(observing(served, "?events=user_message")))
            assert (await silent[-1].frame())[0] == TEXT
        async with asyncio.timeout(DEADLINE_S):
            for observer, transport in zip(silent, observed, strict=True):
                while transport.get_write_buffer_size() <= MAX_UNSENT and not told():
                    await say(served, observer.worker_id, "x" * 20_000)
        assert told()

        reading = {asyncio.create_task(observer.frames(answer_close=True)) for observer in silent}
        ended, others = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.wait(reading)

        *_, (_, text), closing = ended.pop().result()

        assert json.loads(text)["diagnostic"]["code"] == "runtime.unavailable"
        assert "max_unread_bytes" in json.loads(text)["diagnostic"]["message"]
        assert closing == (CLOSE, struct.pack("!H", 1013) + b"runtime.unavailable")


class Member:
    def __init__(self) -> None:
        self.beats: list[bool] = []

    def beat(self, *, late: bool) -> None:
        self.beats.append(late)


async def test_a_beat_that_comes_long_after_its_time_says_so(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimed.http.streaming.heartbeat.LATE_S", 30.0)
    member = Member()
    with Heartbeat(0.05).calling(member):
        async with asyncio.timeout(DEADLINE_S):
            while not member.beats:
                await asyncio.sleep(0.01)
        clock.skip(60.0)
        async with asyncio.timeout(DEADLINE_S):
            while True not in member.beats:
                await asyncio.sleep(0.01)
            beaten = len(member.beats)
            while len(member.beats) < beaten + 2:
                await asyncio.sleep(0.01)
    assert member.beats[0] is False
    assert member.beats[-1] is False


async def test_an_observer_that_speaks_while_much_waits_for_it_is_answered_behind_that(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtimed.http.streaming.sockets.CLOSE_TIMEOUT_S", 60.0)
    async with observing(served) as observer:
        await observer.frame()
        for number in range(8):
            await say(served, observer.worker_id, str(number) + "x" * 700_000)
        observer.send(0x80 | TEXT, b"hello")
        observer.send(0x80 | CLOSE, struct.pack("!H", 1000))
        *_, (_, text), closing = await observer.frames()
        assert json.loads(text)["diagnostic"]["code"] == "runtime.observation_only"
        assert closing == (CLOSE, struct.pack("!H", 1008) + b"runtime.observation_only")
