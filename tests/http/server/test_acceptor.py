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
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    acceptor = Acceptor(listener, Greeting)
    loop = asyncio.get_running_loop()
    clients = [socket.socket() for _ in range(3)]
    try:
        with descriptors.none_left():
            for client in clients:
                client.setblocking(False)
                await loop.sock_connect(client, listener.getsockname())
            async with asyncio.timeout(60):
                while REFUSED not in caplog.text:
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            greetings = [await loop.sock_recv(client, 5) for client in clients]
    finally:
        acceptor.close()
        acceptor.close()
        for client in clients:
            client.close()

    assert greetings == [b"hello"] * 3
    assert caplog.text.count(REFUSED) == 1
    assert listener.fileno() == -1


async def test_an_acceptor_closed_during_the_pause_leaves_nothing_behind() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
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
