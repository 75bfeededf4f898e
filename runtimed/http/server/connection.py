"""A connection that aiohttp serves, with a slot and a head filter of its own."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from runtimed.errors import Internal, InvalidRequest, RuntimedError
from runtimed.http.server.head_filter import BROKEN_HEAD, HeadFilter
from runtimed.http.server.slots import Slot, Slots
from runtimed.http.web.application import ApiApplication

CLOSED = "the handler is closed"
"""The message of uvloop about a write to a handle that it has closed."""


class Connection(web.RequestHandler):
    """Answers the requests of one connection, in their order.

    A connection without a request for `keepalive_timeout` seconds is closed.

    Args:
        server: The server that made the connection.
        api: What answers requests.
        slots: Where the connection takes its slot.
        slot: The slot that it has already, or None.
        options: Those of `web.RequestHandler`.
    """

    __slots__ = ("_api", "_begun", "_head_filter", "_received", "_refusing", "_slot", "_slots")

    def __init__(
        self, server: web.Server, *, api: ApiApplication, slots: Slots, slot: Slot | None = None, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._api = api
        self._slots = slots
        self._slot = slot
        self._head_filter = HeadFilter()
        self._begun = 0
        self._refusing = False
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast("asyncio.Transport", transport)
        if self._slot is None:
            self._slot = self._slots.take(connected)
        if self._slot is None:
            connected.abort()
        else:
            self._start(connected)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._slot is not None:
            self._slot.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if data:
            self._pass_on(self._head_filter.feed(data))
        else:  # aiohttp continues with what it has buffered
            super().data_received(data)

    def admitted(self) -> None:
        """Note that the guard has admitted a request of this connection."""
        if self._slot is not None:
            self._slot.admit()

    def begin(self) -> None:
        """Note that aiohttp has begun with the next request."""
        self._begun += 1
        self._refuse_in_turn()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that is not HTTP: the same kind as to any other bad request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun already")
        error: RuntimedError = self._head_filter.refusal or InvalidRequest("expected an HTTP/1.1 request")
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return self._api.refuse(request, Internal() if failed else error, exc if failed else None)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log an error, unless it is a write to a connection that is closed already.

        A transport of uvloop may be closed although `is_closing` returns False. Then only the error shows it.
        """
        closed = self.transport is None or self.transport.is_closing() or CLOSED in str(options.get("exc_info"))
        if not closed:
            super().log_exception(*args, **options)

    def _start(self, transport: asyncio.Transport) -> None:
        """Begin to serve a connection that has its slot."""
        self._start_aiohttp(transport)

    def _start_aiohttp(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)

    def _pass_on(self, pieces: Sequence[bytes]) -> None:
        """Give aiohttp the bytes that passed the filter, and count them while the client has shown no token."""
        if self._slot is not None and not self._slot.admitted:
            self._received += sum(map(len, pieces))
            self._slot.hold(self._received + len(self._head_filter.held))
        for piece in pieces:
            super().data_received(piece)
        self._refuse_in_turn()

    def _refuse_in_turn(self) -> None:
        """Answer a refused head once every request before it has begun.

        When the parser fails, it drops the requests that it has found but not returned yet.
        """
        filtered = self._head_filter
        if filtered.refusal is not None and self._begun == filtered.heads and not self._refusing:
            self._refusing = True
            super().data_received(BROKEN_HEAD)
