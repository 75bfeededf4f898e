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

    listener = descriptors.new_listener()
    acceptor = Acceptor(listener, asyncio.Semaphore(1), greet)
    try:
        greetings = await descriptors.greetings_of_clients_that_had_to_wait(listener, lambda: REFUSED in caplog.text)
    finally:
        await acceptor.close()

    assert greetings == [b"hello"] * 3
    assert caplog.text.count(REFUSED) == 1
    assert listener.fileno() == -1
