"""A redirect is not followed: the token is for the address that was given."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

import runtimectl
from runtimectl.client import address
from runtimectl.client.feed_socket import connected
from runtimectl.errors import ApiError, DaemonFailed
from runtimectl.library import calls
from runtimectl.library.async_transport import AsyncTransport
from tests.runtimectl.conftest import Ctl, ServeRaw

TOKEN = "the-token-of-these-tests"
REDIRECT = "the daemon answered with status 302, a redirect: give the URL that it leads to"


class Redirecting:
    """Redirects everything to another path of its own, and keeps the request lines."""

    def __init__(self, serve_raw: ServeRaw) -> None:
        self.asked: list[str] = []
        self.url = serve_raw(self._answer)
        self.address = address.parse(self.url)._replace(token=TOKEN, has_given_token=True)

    def _answer(self, connection: socket.socket) -> None:
        head = connection.recv(65_536).decode()
        self.asked.append(head.partition(" HTTP")[0])
        lines = ["HTTP/1.1 302 Found", f"Location: {self.url}/elsewhere", "Content-Length: 0", "Connection: close"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())


@pytest.fixture
def redirecting(serve_raw: ServeRaw) -> Redirecting:
    return Redirecting(serve_raw)


def test_a_command_says_that_it_was_redirected(ctl: Ctl, redirecting: Redirecting) -> None:
    found = ctl("status", "--url", redirecting.url, extra={"RUNTIMECTL_TOKEN": TOKEN})

    assert (found.returncode, found.stderr) == (7, f"runtimectl: {REDIRECT}\n")
    assert redirecting.asked == ["GET /v1/runtime"]


def test_a_feed_is_not_redirected(redirecting: Redirecting) -> None:
    with pytest.raises(DaemonFailed, match=REDIRECT), connected(redirecting.address, "/v1/events/ws"):
        pass

    assert redirecting.asked == ["GET /v1/events/ws"]


def test_a_library_call_is_not_redirected(redirecting: Redirecting) -> None:
    with runtimectl.Client(redirecting.url, TOKEN) as client, pytest.raises(ApiError, match=REDIRECT) as refused:
        client.create_worker()

    assert refused.value.status == 302
    assert redirecting.asked == ["POST /v1/workers"]


def test_neither_a_call_nor_a_feed_of_the_asynchronous_library_is_redirected(redirecting: Redirecting) -> None:
    async def ask(act: Callable[[AsyncTransport], Any]) -> None:
        transport = AsyncTransport(lambda _: redirecting.address, 30.0, 30.0)
        with pytest.raises(ApiError, match=REDIRECT):
            await act(transport)
        await transport.close()

    async def observe(transport: AsyncTransport) -> None:
        async with transport.feed("/v1/events/ws", calls.runtime()):
            pass

    asyncio.run(ask(lambda transport: transport.send(calls.runtime())))
    asyncio.run(ask(observe))

    assert redirecting.asked == ["GET /v1/runtime", "GET /v1/events/ws"]
