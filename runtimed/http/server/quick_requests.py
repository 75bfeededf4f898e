"""Plain requests: recognized from their bytes, and answered without aiohttp's machinery.

For each request aiohttp creates a task, a stream, a writer, a request and a response. That is most of the cost of a
bare handler; the parser is less than a fifth. A plain request needs only the parser.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import MultiDict

from runtimed.errors import RuntimedError
from runtimed.http.server.head_filter import END
from runtimed.http.web.application import ApiApplication
from runtimed.http.web.audit import Audited, is_audited, remote_of
from runtimed.http.web.endpoint import Endpoint
from runtimed.http.web.local_address import LocalAddress
from runtimed.http.web.query import Query
from runtimed.metrics.requests import RouteRequests
from runtimed.wire.request_id import REQUEST_ID, given_request_id

MAX_PLAIN_BYTES = 2**16
"""The largest plain request in bytes, with head and body."""

UNUSUAL = (hdrs.EXPECT, hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE)
"""A request with one of these headers is not plain."""

NO_QUERY: Query = MultiDict()


@attrs.frozen
class QuickRequest:
    """A plain request.

    Attributes:
        endpoint: What it calls.
        arguments: The arguments except the body.
        body_bytes: The size of its body.
        size_bytes: The size of head and body.
        generation: The generation of the guard that admitted it.
        tenant: The tenant of its client, whose requests are limited; None on an open route.
        audited: What the audit log records of it, or None for nothing.
        request_id: The id that the client gives it, or None.
        requests: Where it is counted.
    """

    endpoint: Endpoint
    arguments: dict[str, Any]
    body_bytes: int
    size_bytes: int
    generation: int
    tenant: str | None
    audited: Audited | None
    request_id: str | None
    requests: RouteRequests


class QuickRequests:
    """Recognizes the plain requests of one connection.

    A request is plain if its path has nothing encoded, its endpoint needs nothing of aiohttp, the guard admits it,
    its client may call the endpoint, and its body, if any, is small JSON of known length. Anything else is left to
    aiohttp, and so is every refusal.

    Args:
        api: The application, whose router and guard decide.
        local: Where the connection came in, or None for a Unix socket.
        peer: The address of its other end.
        loop: The running event loop.
    """

    __slots__ = ("_api", "_last", "_last_head", "_local", "_parser", "_passed", "_remote", "_size_bytes", "begun")

    def __init__(
        self, api: ApiApplication, local: LocalAddress | None, peer: object, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._api = api
        self._local = local
        self._remote = remote_of(peer)
        self._parser = HttpRequestParser(
            BaseProtocol(loop), loop, MAX_PLAIN_BYTES, max_field_size=8190, auto_decompress=False
        )
        self._last: QuickRequest | None = None
        self._last_head = b""
        self._passed: list[bytes] = []
        self._size_bytes = 0
        self.begun: QuickRequest | None = None

    def repeated(self, data: bytes) -> QuickRequest | None:
        """Return the request in these bytes if its head is that of the last request, and no request has begun.

        Clients that repeat a request send the same head each time. The guard is asked again after its generation
        has changed.
        """
        last = self._last
        if last is None or last.generation != self._api.guard.generation:
            return None
        same = len(data) == len(self._last_head) + last.body_bytes and data.startswith(self._last_head)
        return last if same else None

    def feed(self, pieces: Sequence[bytes]) -> bool:
        """Add bytes that passed the head filter. Sets `begun` once the request is known to be plain.

        Returns:
            False if this is not a plain request. Then everything that `take_back` returns is for aiohttp.
        """
        self._passed += pieces
        self._size_bytes += sum(map(len, pieces))
        messages = self._parse(pieces)
        if self.begun is None and messages is not None and len(messages) == 1:
            self.begun = self._recognize(messages[0][0])
        begun = self.begun
        return (
            messages is not None
            and begun is not None
            and self._size_bytes <= begun.size_bytes
            and begun.generation == self._api.guard.generation
        )

    def take(self, data: bytes) -> tuple[QuickRequest, bytes] | None:
        """Return the request that has begun and its body, once all of it has arrived.

        Args:
            data: The bytes of the request as they arrived; `repeated` compares the next request with them.
        """
        begun = self.begun
        if begun is None or self._size_bytes < begun.size_bytes:
            return None
        passed, head = self.take_back(), data[: len(data) - begun.body_bytes]
        is_head = head.find(END) == len(head) - len(END)  # there may be empty lines around a request
        self._last, self._last_head = (begun, head) if is_head else (None, b"")
        return begun, b"".join(passed)[begun.size_bytes - begun.body_bytes :]

    def take_back(self) -> list[bytes]:
        """Forget the request that has begun, and return its bytes as they were fed."""
        passed, self._passed, self._size_bytes, self.begun = self._passed, [], 0, None
        return passed

    def _parse(self, pieces: Sequence[bytes]) -> Sequence[tuple[RawRequestMessage, StreamReader]] | None:
        """Return the messages that these bytes complete; None for several pieces, too many bytes, or invalid ones."""
        if len(pieces) != 1 or self._size_bytes > MAX_PLAIN_BYTES:
            return None
        try:
            return self._parser.feed_data(pieces[0])[0]
        except HttpProcessingError:
            return None

    def _recognize(self, message: RawRequestMessage) -> QuickRequest | None:
        headers = message.headers
        path, _, query = message.path.partition("?")
        found = self._api.router.find(message.method, path) if "%" not in path and "#" not in message.path else None
        if found is None or found.endpoint.needs_aiohttp or message.should_close or message.version != HttpVersion11:
            return None
        if any(name in headers for name in UNUSUAL):
            return None
        length = int(headers.get(hdrs.CONTENT_LENGTH, 0))
        head_bytes = self._passed[0].find(END) + len(END)
        if head_bytes + length > MAX_PLAIN_BYTES:
            return None
        guard = self._api.guard
        generation = guard.generation
        principal = guard.find_principal(headers, self._local)
        if principal is None or found.endpoint.refusal(principal) is not None:
            return None
        try:
            if found.endpoint.body is not None:
                found.endpoint.body.check(headers, length, has_body=length > 0)
            elif length:
                return None
            asked = message.url.query if query else NO_QUERY
            arguments = found.endpoint.arguments(principal, found.in_path, asked, headers)
        except RuntimedError:
            return None
        route = found.endpoint.route
        return QuickRequest(
            found.endpoint,
            arguments,
            length,
            head_bytes + length,
            generation,
            None if route.is_open else principal.tenant,
            Audited(route, found.in_path, principal, self._remote) if is_audited(route) else None,
            given_request_id(headers.getall(REQUEST_ID, ())),
            self._api.requests.of(route.path, message.method),
        )
