"""A connection that answers plain requests directly, and leaves all others to aiohttp."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from runtimed.http.server.connection import Connection
from runtimed.http.server.quick_requests import QuickRequest, QuickRequests
from runtimed.http.web.application import ApiApplication
from runtimed.http.web.local_address import local_address
from runtimed.http.web.responses import JsonResponse, error_response
from runtimed.wire.request_id import RequestScope

UNREAD_TIMEOUT_S = 60.0
"""How long a client may leave a quick response unread before its connection is cut."""


class QuickConnection(Connection):
    """Answers plain requests at once, each in one write.

    At the first request that is not plain, aiohttp's machinery starts, gets the bytes of that request, and answers it
    and all that follow. Slot, head filter, guard, router and shutdown are the same for both. While a quick request is
    being answered, or its response is not read, nothing more is read.

    Args:
        server: The server that made the connection.
        api: What answers requests.
        options: Those of Connection.
    """

    __slots__ = ("_answering", "_closing", "_data", "_idle_since", "_quick", "_server", "_timer")

    def __init__(self, server: web.Server, *, api: ApiApplication, **options: Any) -> None:
        super().__init__(server, api=api, **options)
        self._server = server
        self._quick: QuickRequests | None = None
        self._answering: asyncio.Task[None] | None = None
        self._data = b""
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Free the slot. A request that has begun is finished, although its response is not read."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._task_handler = self._answering  # the server keeps the connection until this task is done
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._quick is None:
            super().data_received(data)
            return
        self._data = self._data + data if self._data else data
        if self._answering is None and not self.writing_paused:
            self._read(self._quick, data)
        elif self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._quick is not None:
            self._go_on(self._quick)

    def close(self) -> None:
        """Close the connection, after the response that is due."""
        self._closing = True
        super().close()
        if self._quick is not None and self._answering is None and self.transport is not None:
            self.transport.close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 the signature is aiohttp's
        """Let a request that has begun finish, and close the connection.

        Args:
            timeout: Half of the time that a request may take, in seconds: aiohttp waits for it twice.
        """
        if self._answering is not None:
            answering = self._answering
            await asyncio.wait({answering}, timeout=None if timeout is None else 2 * timeout)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        await super().shutdown(timeout)

    def _start(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._server.connection_made(self, transport)
        peer = transport.get_extra_info("peername")
        self._quick = QuickRequests(self._api, local_address(transport), peer, self._loop)
        self._idle_since = self._loop.time()
        self._timer = self._loop.call_later(self.keepalive_timeout, self._check_idle)

    def _leave_to_aiohttp(self, quick: QuickRequests) -> None:
        """Let aiohttp answer the request that has begun, and all that follow."""
        self._quick, self._data = None, b""
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self._start_aiohttp(self.transport)
            self._pass_on(quick.take_back())

    def _read(self, quick: QuickRequests, data: bytes) -> None:
        """Answer a plain request if `data` completes it; leave any other to aiohttp."""
        if data is self._data and (known := quick.repeated(data)) is not None:
            self._answer(known, data[len(data) - known.body_bytes :])
            return
        filtered = self._head_filter
        pieces = filtered.feed(data)
        if not pieces and quick.begun is None and filtered.refusal is None:
            self._await_head()
            return
        is_plain = quick.feed(pieces)
        if quick.begun is not None:
            self.admitted()
        if not is_plain or filtered.held or filtered.refusal is not None:
            self._leave_to_aiohttp(quick)
        elif (whole := quick.take(self._data)) is not None:
            self._begun = filtered.heads
            self._answer(*whole)

    def _await_head(self) -> None:
        """Keep no more than the filter holds while a head is incomplete."""
        self._data = self._head_filter.held
        if self._slot is not None:
            self._slot.hold(len(self._data))

    def _answer(self, request: QuickRequest, body: bytes) -> None:
        self._data = b""
        scope = self._api.request_ids.begin(request.request_id)
        try:
            if request.tenant is not None:
                self._api.quotas.take_request(request.tenant)
            returned = request.endpoint.call(request.arguments, body)
            if request.endpoint.awaits:
                self._answering = self._loop.create_task(self._answer_later(request, scope, returned))
            else:
                self._succeed(request, scope, returned)
        except Exception as error:  # noqa: BLE001 every error becomes a response here
            self._fail(request, scope, error)

    async def _answer_later(
        self, request: QuickRequest, scope: RequestScope, returned: Coroutine[Any, Any, Any]
    ) -> None:
        try:
            self._succeed(request, scope, await returned)
        except asyncio.CancelledError as error:
            self._end(request, scope, error=error)
            raise
        except Exception as error:  # noqa: BLE001 every error becomes a response here
            self._fail(request, scope, error)
        finally:
            self._answering = None
            if self._quick is not None:
                self._go_on(self._quick)

    def _succeed(self, request: QuickRequest, scope: RequestScope, returned: Any) -> None:
        self._write(JsonResponse.of(returned), request, scope)
        self._end(request, scope, returned=returned)

    def _fail(self, request: QuickRequest, scope: RequestScope, error: Exception) -> None:
        self._write(error_response(error), request, scope)
        self._end(request, scope, error=error)

    def _end(
        self, request: QuickRequest, scope: RequestScope, *, error: BaseException | None = None, returned: Any = None
    ) -> None:
        if request.audited is not None:
            self._api.audit.answered(request.audited, error=error, returned=returned)
        scope.is_over = True

    def _write(self, response: JsonResponse, request: QuickRequest, scope: RequestScope) -> None:
        self._idle_since = self._loop.time()
        data = response.to_bytes(scope.id)
        request.requests.observe(response.status, time.monotonic() - scope.began_s)
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(RuntimeError):  # uvloop may have closed it without saying that it is closing
                self.transport.write(data)

    def _go_on(self, quick: QuickRequests) -> None:
        """Read what has arrived meanwhile."""
        if self._answering is not None or self.writing_paused or self.transport is None:
            return
        if self._closing or self.transport.is_closing():
            self.transport.close()
            return
        try:
            self.transport.resume_reading()
        except RuntimeError:  # uvloop has closed it, and calls connection_lost in a moment
            return
        if self._data:
            self._read(quick, self._data)

    def _check_idle(self) -> None:
        """Close a connection that is idle, and cut one whose client does not read its response."""
        now = self._loop.time()
        due = self._idle_since + (UNREAD_TIMEOUT_S if self.writing_paused else self.keepalive_timeout)
        if self._answering is not None or now < due:
            again = due if now < due else now + self.keepalive_timeout
            self._timer = self._loop.call_at(again, self._check_idle)
        elif self.transport is None or self._quick is None:
            return
        elif self.writing_paused:
            self.transport.abort()
        elif self._quick.begun is not None:
            self._leave_to_aiohttp(self._quick)
        else:
            self.transport.close()
