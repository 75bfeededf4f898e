import asyncio
import socket

import pytest

from runtimed.execution.network.acceptor import Acceptor
from tests import descriptors

REFUSED = "cannot accept connections of a Worker, new ones wait"


async def test_connections_that_come_while_no_descriptor_is_left_wait_for_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def greet(connection: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, b"hello")

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    acceptor = Acceptor(listener, asyncio.Semaphore(1), greet)
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
        await acceptor.close()
        for client in clients:
            client.close()

    assert greetings == [b"hello"] * 3
    assert caplog.text.count(REFUSED) == 1
    assert listener.fileno() == -1
