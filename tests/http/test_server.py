"""The server in front of the application: broken requests, slow ones, too many, and the end."""

import asyncio
import json
import logging

import aiohttp
import pytest

from runtimed.core import Runtime
from runtimed.http.guard import FREE_GUESSES
from runtimed.store.memory import MemoryStore

from .conftest import TOKEN, serving


async def exchange(port: int, request: bytes) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
async def test_what_is_no_http_gets_the_usual_error_body_and_no_traceback(served, caplog, request_):
    with caplog.at_level(logging.DEBUG):
        answer = await exchange(served.port, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.split(b"\r\n")[0]
    assert json.loads(body)["error"]["code"] == "invalid_request"
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_head_that_does_not_arrive_in_time_is_cut(runtime):
    async with serving(runtime, {"header_timeout_s": 0.5}) as served:
        assert await exchange(served.port, b"GET /v1/runtime HTTP/1.1\r\nHost: x\r\n") == b""


async def test_connections_above_the_limit_are_closed_and_the_others_served(runtime):
    async with serving(runtime, {"max_connections": 2}) as served:
        held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(2)]
        assert await exchange(served.port, b"") == b""
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(20):
            while True:
                try:
                    async with served.client.get(f"{served.url}/v1/runtime") as answer:
                        assert answer.status == 200
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.01)


async def test_wrong_tokens_are_slowed_down_and_the_right_one_is_not(served, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("runtimed.http.guard.asyncio.sleep", sleep)
    wrong = {"Authorization": "Bearer wrong"}
    for _ in range(FREE_GUESSES + 3):
        async with served.client.get(f"{served.url}/v1/runtime", headers=wrong) as answer:
            assert answer.status == 401
    assert len(slept) == 3
    async with served.client.get(f"{served.url}/v1/runtime") as answer:
        assert answer.status == 200
    assert len(slept) == 3


async def test_a_token_that_is_not_ascii_is_just_wrong(served):
    answer = await exchange(
        served.port,
        f"GET /v1/runtime HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n".encode()
        + b"Authorization: Bearer \xc3\xa9\xff\r\n\r\n",
    )
    assert b" 401 " in answer.split(b"\r\n")[0]


async def test_an_ipv6_literal_with_a_zone_or_garbage_is_no_host_of_ours(served):
    for host in ("[::1%25lo]", "127.0.0.1:99999", "127.0.0.1:", "", "a b", "127.0.0.1:80,evil"):
        request = (
            f"GET /v1/runtime HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n"
        )
        request += "\r\n"
        assert b" 421 " in (await exchange(served.port, request.encode())).split(b"\r\n")[0], host


async def test_a_stop_does_not_wait_for_idle_connections():
    async with Runtime(MemoryStore()) as runtime:
        async with serving(runtime, {"drain_timeout_s": 5.0}) as served:
            idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(50)]
        async with asyncio.timeout(5):
            for reader, writer in idle:
                assert await reader.read() == b""
                writer.close()


async def test_leave_to_send_a_body_is_given_only_to_who_has_the_token(served):
    head = f"POST /v1/workers HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
    head += "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n"
    refused = await exchange(served.port, f"{head}\r\n".encode())
    assert refused.startswith(b"HTTP/1.1 401 ")
    allowed = await exchange(served.port, f"{head}Authorization: Bearer {TOKEN}\r\n\r\n{{}}".encode())
    assert allowed.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
