"""A connection that aiohttp serves, behind the filter of its heads."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from runtimed.errors import Internal, InvalidRequest, RuntimedError
from runtimed.http.errors import error_answer
from runtimed.http.heads import BROKEN_HEAD, HeadFilter
from runtimed.http.slots import Slot, Slots

CLOSED = "the handler is closed"
"""What uvloop says of a write to a handle that it has closed."""

log = logging.getLogger(__name__)


class RequestProtocol(web.RequestHandler):
    """One connection; a request that is not HTTP gets the same kind of answer as any other bad one.

    It takes one of `slots`, unless it took the connection over with its `slot`.
    """

    __slots__ = ("_begun", "_heads", "_received", "_refusing", "_slot", "_slots")

    def __init__(self, manager: web.Server, *, slots: Slots, slot: Slot | None = None, **options: Any) -> None:
        super().__init__(manager, **options)
        self._slots = slots
        self._slot = slot
        self._heads = HeadFilter()
        self._begun = 0
        self._refusing = False
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._slot is None:
            self._slot = self._slots.take(cast("asyncio.Transport", transport))
        super().connection_made(transport)
        if self._slot is None:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._slot is not None:
            self._slot.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        pieces = self._heads.feed(data)
        if self._slot is not None and not self._slot.admitted:
            self._received += sum(map(len, pieces))
            self._slot.hold(self._received + len(self._heads.held))
        if not data:
            super().data_received(data)
        for piece in pieces:
            super().data_received(piece)
        self._refuse_in_turn()

    def begin(self) -> None:
        """The request that is next has its turn."""
        self._begun += 1
        self._refuse_in_turn()

    def _refuse_in_turn(self) -> None:
        """Answer a refused head once every request before it has begun.

        When the parser fails it drops the requests that it has found but not returned yet.
        """
        if self._heads.refusal is not None and self._begun == self._heads.heads and not self._refusing:
            self._refusing = True
            super().data_received(BROKEN_HEAD)

    def admitted(self) -> None:
        """The guard has let in a request of this connection."""
        if self._slot is not None:
            self._slot.admit()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A broken request is no fault of ours and leaves no traceback."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response was begun already")
        error: RuntimedError = self._heads.refusal or InvalidRequest("expected an HTTP/1.1 request")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("a connection failed", exc_info=exc)
            error = Internal()
        response = error_answer(error).response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """An answer to a connection that is closed already fails, and that is no news.

        A transport of uvloop may be closed and say that it is not closing; the error says so then.
        """
        closed = self.transport is None or self.transport.is_closing() or CLOSED in str(options.get("exc_info"))
        if not closed:
            super().log_exception(*args, **options)
