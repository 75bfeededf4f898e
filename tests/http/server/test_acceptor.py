import asyncio
import socket

import pytest

from runtimed.http.server.acceptor import Acceptor
from tests import descriptors

REFUSED = "cannot accept connections, new ones wait"


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


async def test_connections_that_come_while_no_descriptor_is_left_wait_for_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = descriptors.new_listener()
    acceptor = Acceptor(listener, Greeting)
    try:
        greetings = await descriptors.greetings_of_clients_that_had_to_wait(listener, lambda: REFUSED in caplog.text)
    finally:
        acceptor.close()
        acceptor.close()

    assert greetings == [b"hello"] * 3
    assert caplog.text.count(REFUSED) == 1
    assert listener.fileno() == -1


async def test_an_acceptor_closed_during_the_pause_leaves_nothing_behind() -> None:
    listener = descriptors.new_listener()
    acceptor = Acceptor(listener, Greeting)
    client = socket.socket()
    client.setblocking(False)
    with descriptors.none_left():
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        await asyncio.sleep(0)
        acceptor.close()

    with pytest.raises(ConnectionResetError), client:
        async with asyncio.timeout(60):
            await asyncio.get_running_loop().sock_recv(client, 1)
