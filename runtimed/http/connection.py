"""One connection, answered without aiohttp's machinery for as long as its requests are plain.

For each request aiohttp makes a task, a stream, a writer, a request and a response, and asks its router. That is most
of what a bare handler costs; the parser is less than a fifth. A plain request needs none of it but the parser. It has
a path without anything encoded, a route that sees nothing of aiohttp, the right token, a Host of ours, and a body, if
any, of JSON that is small and of known length.

At the first request that is not plain the connection is given over to aiohttp, with all bytes of that request, and
stays there. So what is refused at the door is refused in one place, and WebSockets are aiohttp's.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import attrs
from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import MultiDict

from runtimed.errors import InvalidQuery
from runtimed.http.binder import Bound, Query, is_json
from runtimed.http.dispatcher import Dispatcher
from runtimed.http.errors import error_answer
from runtimed.http.heads import HeadFilter
from runtimed.http.responses import Answer
from runtimed.http.slots import Slot, Slots

MAX_PLAIN_BYTES = 2**16
"""A request with more bytes, head and body, is not plain."""

TAKING_S = 60.0
"""How long a client may take to read an answer."""

UNUSUAL = (hdrs.EXPECT, hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE)
"""A request with one of these headers is not plain."""

NO_QUERY: Query = MultiDict()


@attrs.define(eq=False)
class Call:
    """A plain request: what it calls, and its size in bytes; `payload` is its body as the parser has it, while it is
    being read, and `generation` that of the guard that let it in."""

    bound: Bound
    arguments: dict[str, Any]
    head: bytes
    size: int
    payload: StreamReader
    generation: int


class Connection(asyncio.Protocol):
    """Takes one plain request after another; `give_over` makes the protocol that takes all else.

    It closes when nothing has come for `idle_s` seconds; a body that takes that long is left to aiohttp. While a
    request is being answered, or an answer is not taken, nothing more is read. It is one of `connections` for as long
    as it has something to do.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        give_over: Callable[[Slot | None], asyncio.Protocol],
        idle_s: float,
        connections: "set[Connection]",
        slots: Slots,
    ) -> None:
        self.answering: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._dispatcher = dispatcher
        self._give_over = give_over
        self._idle_s = idle_s
        self._connections = connections
        self._slots = slots
        self._heads = HeadFilter()
        self._parser = HttpRequestParser(
            BaseProtocol(self._loop), self._loop, MAX_PLAIN_BYTES, max_field_size=8190, auto_decompress=False
        )
        self._call: Call | None = None
        self._known: Call | None = None
        self._data = b""
        self._crowded = False
        self._closing = False
        self._since = self._loop.time()
        self._slot: Slot | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See BaseProtocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._local = transport.get_extra_info("sockname")
        self._timer = self._loop.call_later(self._idle_s, self._look)
        self._slot = self._slots.take(self._transport)
        if self._slot is None:
            self._transport.abort()
        else:
            self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See BaseProtocol. A request that was begun is finished, though nobody hears the answer."""
        self._closing = True
        self._timer.cancel()
        if self._slot is not None:
            self._slot.leave()
        if self.answering is None:
            self._connections.discard(self)

    def pause_writing(self) -> None:
        """See BaseProtocol."""
        self._crowded = True

    def resume_writing(self) -> None:
        """See BaseProtocol."""
        self._crowded = False
        self._go_on()

    def close(self) -> None:
        """Close the connection, behind the answer that is due."""
        self._closing = True
        if self.answering is None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self._data = self._data + data if self._data else data
        if self.answering is not None or self._crowded:
            self._transport.pause_reading()
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        if data is self._data and self._known is not None and self._is_again(self._known):
            self._take(self._known)
            return
        pieces = self._heads.feed(data)
        if not (pieces or self._call or self._heads.refusal):
            self._await_head()
            return
        messages = self._parse(pieces)
        if self._call is None and len(messages) == 1:
            self._call = self._understand(*messages[0])
        call = self._call
        if call is None or len(self._data) > call.size or call.generation != self._dispatcher.guard.generation:
            self._hand_over()
        elif len(self._data) == call.size and call.payload.is_eof():
            self._call, self._known = None, attrs.evolve(call, payload=EMPTY_PAYLOAD)
            self._take(call)

    def _await_head(self) -> None:
        """Keep only what the filter holds, the same bytes, while a head has not come as a whole."""
        self._data = self._heads.held
        if self._slot is not None and not self._slot.admitted:
            self._slot.hold(len(self._data))

    def _parse(self, pieces: list[bytes]) -> Sequence[tuple[RawRequestMessage, StreamReader]]:
        """The head that these bytes complete; none where there are several, where they are no HTTP, or more than the
        parser would hold."""
        if len(pieces) != 1 or len(self._data) > MAX_PLAIN_BYTES or self._heads.refusal is not None:
            return ()
        try:
            return self._parser.feed_data(pieces[0])[0]
        except HttpProcessingError:
            return ()

    def _is_again(self, known: Call) -> bool:
        """Whether the request that came has the very head of the last one, as a client's has that asks repeatedly."""
        here = len(self._data) == known.size and self._data.startswith(known.head)
        return here and known.generation == self._dispatcher.guard.generation

    def _understand(self, message: RawRequestMessage, payload: StreamReader) -> Call | None:
        """What a request calls, or None where it is not plain."""
        headers = message.headers
        path, _, query = message.path.partition("?")
        found = self._dispatcher.find(message.method, path)
        if found is None or message.should_close or message.version != HttpVersion11:
            return None
        bound, in_path = found
        length = int(headers.get(hdrs.CONTENT_LENGTH, 0))
        head = self._data[: self._data.find(b"\r\n\r\n") + 4]
        if (length or bound.wants_body) and not (bound.body and is_json(headers.get(hdrs.CONTENT_TYPE, ""))):
            return None
        if (
            len(head) + length > MAX_PLAIN_BYTES
            or length > bound.max_body_bytes
            or any(name in headers for name in UNUSUAL)
        ):
            return None
        guard = self._dispatcher.guard
        generation = guard.generation
        if not guard.admits(headers, self._local):
            return None
        if self._slot is not None:
            self._slot.admit()
        try:
            arguments = bound.arguments(in_path, message.url.query if query else NO_QUERY)
        except InvalidQuery:
            return None
        return Call(bound, arguments, head, len(head) + length, payload, generation)

    def _take(self, call: Call) -> None:
        """Answer a request that is here as a whole."""
        bound, body, self._data = call.bound, self._data[len(call.head) :], b""
        try:
            read = {} if bound.body is None else {bound.body.name: bound.body.read(body)}
            answer = bound.route.handler(**call.arguments, **read)
            if bound.waits:
                self.answering = self._loop.create_task(self._wait(answer))
            else:
                self._reply(Answer.of(answer))
        except Exception as error:  # noqa: BLE001 every error gets its answer here
            self._reply(error_answer(error))

    async def _wait(self, coming: Coroutine[Any, Any, Any]) -> None:
        try:
            self._reply(Answer.of(await coming))
        except Exception as error:  # noqa: BLE001 every error gets its answer here
            self._reply(error_answer(error))
        finally:
            self.answering = None
            self._go_on()

    def _reply(self, answer: Answer) -> None:
        self._since = self._loop.time()
        data = answer.written()
        if not self._transport.is_closing():
            with contextlib.suppress(RuntimeError):  # what uvloop closed itself may not say that it is closing
                self._transport.write(data)

    def _go_on(self) -> None:
        """Look at what came in the meantime."""
        if self.answering is not None or self._crowded:
            return
        if self._closing or self._transport.is_closing():
            self._transport.close()
            self._connections.discard(self)
            return
        try:
            self._transport.resume_reading()
        except RuntimeError:  # uvloop has closed it, and tells of it in a moment
            return
        if self._data:
            self._read(self._data)

    def _look(self) -> None:
        """Close a connection that is idle, or does not take its answer."""
        now = self._loop.time()
        due = self._since + (TAKING_S if self._crowded else self._idle_s)
        if self.answering is not None or now < due:
            self._timer = self._loop.call_at(due if now < due else now + self._idle_s, self._look)
        elif self._crowded:
            self._transport.abort()
        elif self._call is not None:
            self._hand_over()
        else:
            self._transport.close()

    def _hand_over(self) -> None:
        self._timer.cancel()
        self._connections.discard(self)
        protocol = self._give_over(self._slot)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._data)
