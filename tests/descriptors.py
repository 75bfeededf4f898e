"""A process that has no descriptor left."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator

DEADLINE_S = 60


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """No descriptor may be opened in this process. Those that are open go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # the kernel gives the lowest free number, and only numbers below the limit
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def new_listener() -> socket.socket:
    """A listening socket on loopback that does not block."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


async def greetings_of_clients_that_had_to_wait(
    listener: socket.socket, is_refused: Callable[[], bool]
) -> list[bytes]:
    """Connect three clients while no descriptor is left, and return the five bytes that each gets afterwards.

    Args:
        listener: Where they connect.
        is_refused: Whether who accepts there has noticed.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(3)]
        async with asyncio.timeout(DEADLINE_S):
            with none_left():
                for client in clients:
                    client.setblocking(False)
                    await loop.sock_connect(client, listener.getsockname())
                while not is_refused():
                    await asyncio.sleep(0.01)
            return [await loop.sock_recv(client, 5) for client in clients]
