"""The events of a Worker or of all, as an asynchronous iterator."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiohttp import WebSocketError, WSMsgType

from runtimectl.client.feed import OVER, TRANSIENT, FeedSource, Outage, check_runtime, read_frame
from runtimectl.errors import DaemonFailed, Unavailable
from runtimectl.library import calls
from runtimectl.library.async_transport import AsyncTransport
from runtimectl.library.events import is_snapshot

if TYPE_CHECKING:
    from runtimed.model.event import EventEnvelope


class AsyncEvents:
    """Events in their order, each once, also across a restart of the daemon. See `Events`."""

    def __init__(self, envelopes: AsyncGenerator[dict[str, Any], None], *, with_snapshot: bool) -> None:
        self._envelopes = envelopes
        self._with_snapshot = with_snapshot

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "EventEnvelope":
        from runtimectl.library.decoding import event

        envelope = await anext(self._envelopes)
        while is_snapshot(envelope) and not self._with_snapshot:
            envelope = await anext(self._envelopes)
        return event(envelope)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. The iterator is at its end then."""
        await self._envelopes.aclose()


async def follow(
    transport: AsyncTransport,
    worker_id: str | None,
    labels: Sequence[str],
    find_cursor: Callable[[], Awaitable[str | None]],
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of a feed, a snapshot first for one Worker. Takes what the one in `events` takes."""
    source = FeedSource(await transport.runtime_id(), worker_id, tuple(labels))
    feed = _AsyncFeed(transport, source, await find_cursor())
    async with aclosing(feed.envelopes()) as envelopes:
        async for envelope in envelopes:
            yield envelope


class _AsyncFeed:
    """Reads the events behind a cursor. It reconnects to the same Runtime and resumes behind the last event."""

    def __init__(self, transport: AsyncTransport, source: FeedSource, cursor: str | None) -> None:
        self._transport = transport
        self._source = source
        self._cursor = cursor
        self._has_begun = False
        self._is_over = False
        self._outage = Outage(lambda _note: None, transport.reconnect_for)

    async def envelopes(self) -> AsyncGenerator[dict[str, Any], None]:
        while not self._is_over:
            try:
                async with aclosing(self._connection()) as connection:
                    async for envelope in connection:
                        self._outage.end(has_progress=not is_snapshot(envelope))
                        if not (self._has_begun and is_snapshot(envelope)):
                            self._has_begun = True
                            yield envelope
            except TRANSIENT as error:
                await asyncio.sleep(self._outage.next_delay(error))

    async def _connection(self) -> AsyncGenerator[dict[str, Any], None]:
        if self._outage.is_on:
            address = await self._transport.find()
            found = await self._transport.send(calls.runtime())
            check_runtime(self._source, address, found.runtime_id)
        path = self._source.path(self._cursor, until_over=self._source.worker_id is not None)
        async with self._transport.feed(path, self._probe()) as socket:
            while True:
                message = await socket.receive()
                if message.type is WSMsgType.TEXT:
                    envelope = read_frame(message.data)
                    self._cursor = envelope["cursor"]
                    yield envelope
                elif message.type is WSMsgType.BINARY or isinstance(message.data, WebSocketError):
                    raise DaemonFailed("unexpected response: the feed sent an invalid frame")
                elif message.type is WSMsgType.CLOSE and message.extra == OVER:
                    self._is_over = True
                    return
                else:
                    raise Unavailable("the daemon closed the connection")

    def _probe(self) -> calls.Call[Any]:
        """Return a request that is refused for the same reason as the feed."""
        return calls.runtime() if self._source.worker_id is None else calls.worker(self._source.worker_id)
