"""Large bodies are parsed in a thread, one at a time."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import attrs
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request

from runtimed.core.limits import Limits
from runtimed.http.web.binding import Routes
from runtimed.http.web.body import MAX_INLINE_BYTES
from runtimed.http.web.endpoint import Endpoint
from runtimed.model.principal import ADMIN


@attrs.frozen
class Note:
    """A body."""

    text: str


class SlowDecoder:
    """Decodes when it may, and knows how many bodies it decodes at once."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.running = self.most = self.begun = 0
        self._lock = threading.Lock()

    def decode(self, data: bytes, kind: Callable[[str], object]) -> object:
        with self._lock:
            self.begun += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.may_end.wait(20)
        with self._lock:
            self.running -= 1
        return kind("decoded")


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDecoder]:
    slow = SlowDecoder()
    monkeypatch.setattr("runtimed.http.web.body.decode", slow.decode)
    yield slow
    slow.may_end.set()


def bound() -> Endpoint:
    routes = Routes("notes")

    @routes.post("/notes", "input")
    async def add(note: Note) -> Note:
        return note

    return Endpoint(routes.routes[0], {}, Limits(), 2**20)


def large() -> web.Request:
    loop = asyncio.get_running_loop()
    payload = StreamReader(BaseProtocol(loop), 2**20, loop=loop)
    payload.feed_data(b" " * (MAX_INLINE_BYTES + 1))
    payload.feed_eof()
    headers = {"Content-Type": "application/json", "Content-Length": str(MAX_INLINE_BYTES + 1)}
    return make_mocked_request("POST", "/notes", headers, payload=payload, writer=Mock())


async def test_a_parse_whose_request_is_given_up_keeps_the_next_from_beginning(decoder: SlowDecoder) -> None:
    route = bound()
    first = asyncio.ensure_future(route.handle(large(), ADMIN, {}))
    async with asyncio.timeout(20):
        while not decoder.begun:
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(route.handle(large(), ADMIN, {}))
        await asyncio.wait([second], timeout=0.2)
        begun = decoder.begun

        decoder.may_end.set()
        answer = await second

    assert first.cancelled()
    assert begun == decoder.most == 1
    assert isinstance(answer, Note)
