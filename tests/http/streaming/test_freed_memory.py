"""An observer that has left frees its memory at once, without the garbage collector."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.http.conftest import Served

DEADLINE_S = 60
OF_CONNECTIONS = ("FeedSocket", "Observer", "QuickConnection", "RequestHandler", "HeadFilter", "TlsTransport")


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> Counter[str]:
    """How many objects of connections there are."""
    names = (type(one).__name__ for one in gc.get_objects())
    return Counter(name for name in names if name in OF_CONNECTIONS)


async def test_an_observer_that_has_left_leaves_nothing_to_collect(served: Served, no_collector: None) -> None:
    worker = await served.runtime.create_worker()
    url = f"{served.url}/v1/workers/{worker.worker_id}/events/ws"

    async def observe() -> None:
        async with served.client.ws_connect(url) as socket:
            await socket.receive()

    await observe()
    before = held()
    for _ in range(5):
        await observe()

    async with asyncio.timeout(DEADLINE_S):
        while held() - before:
            await asyncio.sleep(0.05)
