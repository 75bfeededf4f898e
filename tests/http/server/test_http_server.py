"""The server in front of the application: broken requests, slow ones, too many, and the end."""

import asyncio
import contextlib
import json
import logging
import re
import socket
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import pytest

from runtimed.core import Runtime
from runtimed.http import Api
from runtimed.http.server.http_server import HttpServer
from runtimed.http.web.guard import FREE_GUESSES, GUESS_DELAY_S, GUESSES_PER_S, WrongTokens
from runtimed.store.memory import MemoryStore
from tests.http.conftest import TOKEN, Served, Transport, dial, serving

pytestmark = pytest.mark.usefixtures("quick")

DEADLINE_S = 60


@pytest.fixture
def long_window(monkeypatch: pytest.MonkeyPatch) -> float:
    """A window for wrong tokens that is not over before the test; its length."""
    monkeypatch.setattr("runtimed.http.web.guard.GUESS_WINDOW_S", 600.0)
    return 600.0


async def exchange(port: int, request: bytes) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    reader, writer = await dial(port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
async def test_what_is_no_http_gets_the_usual_error_body_and_no_traceback(
    served: Served, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await exchange(served.port, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.split(b"\r\n")[0]
    assert json.loads(body)["error"]["code"] == "invalid_request"
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_head_that_does_not_arrive_in_time_is_cut(runtime: Runtime) -> None:
    async with serving(runtime, {"header_timeout_s": 0.5}) as served:
        assert await exchange(served.port, b"GET /v1/runtime HTTP/1.1\r\nHost: x\r\n") == b""


async def still_open(readers: Iterable[asyncio.StreamReader], most: int | None = None) -> list[bool]:
    """Which connections the server has not closed, once it has closed all but `most`. Answers do not count."""
    ends = [asyncio.ensure_future(closed(reader)) for reader in readers]
    async with asyncio.timeout(DEADLINE_S):
        while most is not None and sum(not end.done() for end in ends) > most:
            await asyncio.sleep(0.01)
    await asyncio.wait(ends, timeout=0.05)  # those that should stay open
    found = [not end.done() for end in ends]
    for end in ends:
        end.cancel()
    await asyncio.wait(ends)
    return found


async def closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()


async def test_a_connection_too_many_takes_the_place_of_the_oldest_that_has_shown_no_token(runtime: Runtime) -> None:
    async with serving(runtime, {"max_connections": 3}) as served:
        async with served.client.get(f"{served.url}/v1/runtime") as answer:
            assert answer.status == 200
        silent = [await dial(served.port) for _ in range(3)]
        async with served.client.get(f"{served.url}/v1/runtime") as answer:
            assert answer.status == 200
        assert await still_open([reader for reader, _ in silent], most=2) == [False, True, True]
        assert isinstance(served.client, aiohttp.ClientSession)
        assert served.client.connector is not None
        assert len(served.client.connector._conns) == 1
        for _, writer in silent:
            writer.close()


async def test_a_connection_too_many_is_closed_where_all_others_have_shown_the_token(runtime: Runtime) -> None:
    async with serving(runtime, {"max_connections": 2}) as served:
        held = [await authenticated(served.port) for _ in range(2)]
        assert await exchange(served.port, b"") == b""
        assert all(await still_open([reader for reader, _ in held]))
        held[0][1].close()
        async with asyncio.timeout(DEADLINE_S):
            while b" 200 " not in await attempt(served.port):
                pass
        held[1][1].close()


async def authenticated(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await dial(port)
    writer.write(plain(port))
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
    return reader, writer


async def attempt(port: int) -> bytes:
    try:
        return await exchange(port, plain(port, "Connection: close"))
    except ConnectionError:
        return b""


def plain(port: int, *headers: str, token: str = TOKEN) -> bytes:
    lines = ["GET /v1/runtime HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {token}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_each_listener_has_connections_of_its_own(runtime: Runtime, tmp_path: Path, quick: bool) -> None:
    server = HttpServer(Api(runtime, token=TOKEN), max_connections=2, quick_requests=quick)
    tcp, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    for sock in (tcp, unix):
        sock.setblocking(False)
    port = tcp.getsockname()[1]
    await server.start([tcp, unix])
    try:
        operator, writer = await asyncio.open_unix_connection(tmp_path / "s")
        silent = [await dial(port) for _ in range(40)]
        writer.write(plain(80, "Connection: close"))
        async with asyncio.timeout(DEADLINE_S):
            assert b" 200 " in await operator.readline()
            assert b" 200 " in await attempt(port)
        for _, one in (*silent, (None, writer)):
            one.close()
    finally:
        await server.close()


@pytest.mark.parametrize(
    "start",
    [b"GET /v1/runtime HTTP/1.1\r\nX: ", b"\r\n" * 20_000 + b"GET /v1/runtime HTTP/1.1\r\nX: "],
    ids=["head", "empty lines and a head"],
)
async def test_what_connections_without_a_token_hold_is_bounded_in_sum(runtime: Runtime, start: bytes) -> None:
    async with serving(runtime, {"max_unauthenticated_bytes": 200_000}) as served:
        first = await dial(served.port)
        links = [first, *[await dial(served.port) for _ in range(19)]]
        for _, writer in links:
            writer.write(start + b"a" * 8_000 + b"\r\nX: " + b"a" * 8_000 + b"\r\nX: " + b"a" * 8_000)
            await writer.drain()
            async with served.client.get(f"{served.url}/v1/runtime") as answer:
                assert answer.status == 200
        held = await still_open([reader for reader, _ in links], most=200_000 // 24_000)
        assert held == [False] * (20 - sum(held)) + [True] * sum(held)
        assert sum(held) >= 200_000 // 25_000 - 1
        for _, writer in links:
            writer.close()


async def test_one_large_head_evicts_many_small_ones(runtime: Runtime) -> None:
    async with serving(runtime, {"max_unauthenticated_bytes": 5_000}) as served:
        small = [await dial(served.port) for _ in range(600)]
        for _, writer in small:
            writer.write(b"GET /")
        async with served.client.get(f"{served.url}/v1/runtime") as answer:
            assert answer.status == 200
        large, writer = await dial(served.port)

        writer.write(b"GET /v1/runtime HTTP/1.1\r\nX: " + b"a" * 4_800)

        held = await still_open([large, *[reader for reader, _ in (*small[:20], *small[-10:])]], most=11)
        assert held == [True] + [False] * 20 + [True] * 10
        for _, one in (*small, (large, writer)):
            one.close()


async def test_empty_lines_before_a_head_are_not_held(runtime: Runtime) -> None:
    async with serving(runtime, {"max_unauthenticated_bytes": 10_000}) as served:
        answer = await exchange(served.port, b"\r\n" * 2**20 + plain(served.port, "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_what_comes_behind_a_request_without_a_token_is_not_answered(served: Served) -> None:
    without = b"GET /v1/runtime HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % served.port
    wrong = plain(served.port, token="no")
    elsewhere = plain(served.port).replace(b"Host: 127.0.0.1", b"Host: evil.example")
    for first, status in ((without, b"401"), (wrong, b"401"), (elsewhere, b"421")):
        answer = await exchange(served.port, first + plain(served.port) + first * 100)
        assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [status]
        assert b"Connection: close\r\n" in answer


BEHIND = {
    "body": ("Content-Length: 100000000", b"x"),
    "chunks": ("Transfer-Encoding: chunked", b"5F5E100\r\n"),
    "frames": ("Connection: Upgrade\r\nUpgrade: websocket", b"\x82\xff\0\0\0\0\x05\xf5\xe1\0abcd"),
}


@pytest.mark.parametrize("case", BEHIND)
async def test_what_comes_behind_a_wrong_token_that_waits_is_bounded(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, long_window: float, case: str
) -> None:
    monkeypatch.setattr("runtimed.http.web.guard.GUESS_DELAY_S", 600.0)
    header, start = BEHIND[case]
    async with serving(runtime, {"max_unauthenticated_bytes": 1_000_000}) as served:
        for _ in range(FREE_GUESSES):
            assert b" 401 " in await exchange(served.port, plain(served.port, token="no"))
        links = [await dial(served.port) for _ in range(12)]
        for _, writer in links:
            writer.write(plain(served.port, header, token="no") + start)
            for _ in range(20):
                writer.write(b"x" * 50_000)
                async with served.client.get(f"{served.url}/v1/runtime") as answer:
                    assert answer.status == 200

        held = await still_open([reader for reader, _ in links], most=8)  # a parser stops to read behind 128 KiB

        assert held[0] is False
        assert held[-1] is True
        for _, writer in links:
            writer.transport.abort()


async def test_many_wrong_tokens_at_once_are_answered_slowly_and_logged_in_sum(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, long_window: float
) -> None:
    count = 120
    async with serving(runtime) as served:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def guess(number: int) -> float:
            assert b" 401 " in await exchange(
                served.port, plain(served.port, "Connection: close", token=f"no{number}")
            )
            return loop.time()

        times = sorted(await asyncio.gather(*(guess(number) for number in range(count))))
        for number, slow in enumerate(times[FREE_GUESSES:]):
            assert slow >= began + GUESS_DELAY_S + number / GUESSES_PER_S
    [told] = [record for record in caplog.records if "wrong token" in record.getMessage()]
    assert vars(told)["count"] == count


async def test_wrong_tokens_above_those_that_wait_get_no_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch, long_window: float
) -> None:
    monkeypatch.setattr("runtimed.http.web.guard.GUESS_DELAY_S", 600.0)
    monkeypatch.setattr("runtimed.http.web.guard.MAX_WAITING_GUESSES", 5)
    wrong = plain(served.port, "Connection: close", token="no")

    async def guess() -> bytes:
        try:
            return await exchange(served.port, wrong)
        except ConnectionError:
            return b""

    guesses = [asyncio.ensure_future(guess()) for _ in range(FREE_GUESSES + 20)]
    async with asyncio.timeout(DEADLINE_S):
        while sum(one.done() for one in guesses) < FREE_GUESSES + 15:
            await asyncio.sleep(0.01)
    at_once = [one.result() for one in guesses if one.done()]
    served.server.api.guard.close()
    answers = await asyncio.gather(*guesses)

    assert sum(b" 401 " in answer for answer in at_once) == FREE_GUESSES
    assert sum(b" 401 " in answer for answer in answers) == FREE_GUESSES + 5


async def test_wrong_tokens_are_slowed_down_and_the_right_one_is_not(
    served: Served, monkeypatch: pytest.MonkeyPatch, long_window: float
) -> None:
    monkeypatch.setattr("runtimed.http.web.guard.GUESS_DELAY_S", 600.0)
    wrong = plain(served.port, token="no")
    for _ in range(FREE_GUESSES):
        assert b" 401 " in await exchange(served.port, wrong)
    waiting = [asyncio.ensure_future(exchange(served.port, wrong)) for _ in range(100)]
    async with asyncio.timeout(DEADLINE_S):
        while served.server.api.guard._guesses._waiting < len(waiting):
            await asyncio.sleep(0.01)

    async with served.client.get(f"{served.url}/v1/runtime") as answer:
        assert answer.status == 200

    assert not any(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_stop_does_not_wait_for_wrong_tokens(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, long_window: float
) -> None:
    monkeypatch.setattr("runtimed.http.web.guard.GUESS_DELAY_S", 600.0)
    count = 300
    loop = asyncio.get_running_loop()
    async with serving(runtime, {"drain_timeout_s": 200.0}) as served:
        links = [await dial(served.port) for _ in range(count)]
        for _, writer in links:
            writer.write(plain(served.port, token="no"))
        for _ in range(10):
            assert b" 200 " in await attempt(served.port)
        began = loop.time()
    took = loop.time() - began

    answers = await asyncio.gather(*[reader.read() for reader, _ in links])

    assert took < 60
    assert all(b" 401 " in answer for answer in answers)
    for _, writer in links:
        writer.close()
    [told] = [record for record in caplog.records if "wrong token" in record.getMessage()]
    assert vars(told)["count"] == count


async def test_the_log_tells_how_long_the_wrong_tokens_really_took(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, long_window: float
) -> None:
    async with serving(runtime) as served:
        assert b" 401 " in await exchange(served.port, plain(served.port, token="no"))

    [told] = [record for record in caplog.records if "wrong token" in record.getMessage()]

    assert vars(told)["count"] == 1
    assert vars(told)["seconds"] < long_window / 2


async def test_a_wrong_token_after_the_close_starts_no_timer() -> None:
    tokens = WrongTokens()
    tokens.close()
    before = len(vars(asyncio.get_running_loop())["_scheduled"])

    answered = [await tokens.wait() for _ in range(FREE_GUESSES + 5)]

    assert all(answered)
    assert len(vars(asyncio.get_running_loop())["_scheduled"]) == before


async def test_a_token_that_is_not_ascii_is_just_wrong(served: Served) -> None:
    answer = await exchange(
        served.port,
        f"GET /v1/runtime HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n".encode()
        + b"Authorization: Bearer \xc3\xa9\xff\r\n\r\n",
    )
    assert b" 401 " in answer.split(b"\r\n")[0]


async def test_an_ipv6_literal_with_a_zone_or_garbage_is_no_host_of_ours(
    served: Served, transport: Transport
) -> None:
    other_port = () if transport.kind == "unix" else ("127.0.0.1:99999",)  # there a port has no meaning
    for host in ("[::1%25lo]", *other_port, "127.0.0.1:", "", "a b", "127.0.0.1:80,evil"):
        request = (
            f"GET /v1/runtime HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n"
        )
        request += "\r\n"
        assert b" 421 " in (await exchange(served.port, request.encode())).split(b"\r\n")[0], host


async def test_a_stop_does_not_wait_for_idle_connections() -> None:
    async with Runtime(MemoryStore()) as runtime:
        async with asyncio.timeout(DEADLINE_S):
            async with serving(runtime, {"drain_timeout_s": 200.0}) as served:
                idle = [await dial(served.port) for _ in range(50)]
            for reader, writer in idle:
                assert await reader.read() == b""
                writer.close()


async def test_leave_to_send_a_body_is_given_only_to_who_has_the_token(served: Served) -> None:
    head = f"POST /v1/workers HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
    head += "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n"
    refused = await exchange(served.port, f"{head}\r\n".encode())
    assert refused.startswith(b"HTTP/1.1 401 ")
    allowed = await exchange(served.port, f"{head}Authorization: Bearer {TOKEN}\r\n\r\n{{}}".encode())
    assert allowed.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
