"""Responses in JSON, as aiohttp objects or as the same bytes."""

import functools
import logging
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import attrs
from aiohttp import web

from runtimed.errors import Internal, RateLimited, RuntimedError, Unavailable
from runtimed.http.errors import MethodNotAllowed, Unauthorized, status_of
from runtimed.wire.converter import encode
from runtimed.wire.envelopes import ErrorDetail, ErrorResponse
from runtimed.wire.request_id import REQUEST_ID, current_request_id

SERVER = "runtimed"
HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
}
NO_CONTENT = 204

log = logging.getLogger(__name__)


@attrs.frozen
class JsonResponse:
    """A status and a body of JSON; `headers` are sent in addition to HEADERS."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, value: Any) -> "JsonResponse":
        """Return the response that carries a value of the model; None gives 204 without a body."""
        return cls(encode(value)) if value is not None else cls(b"", NO_CONTENT)

    def to_aiohttp(self) -> web.Response:
        """Return a response for aiohttp to send."""
        return web.Response(body=self.body or None, status=self.status, headers=_headers(self.status, self.headers))

    def to_bytes(self, request_id: str) -> bytes:
        """Return the bytes that aiohttp would send over HTTP/1.1 on a connection that stays open."""
        head, date = _head(self.status, *self.headers.items()), _date(int(time.time()))
        named = request_id.encode()
        if self.status == NO_CONTENT:
            return b"%bX-Request-Id: %b\r\nDate: %b\r\n\r\n" % (head, named, date)
        return b"%bX-Request-Id: %b\r\nContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (
            head,
            named,
            len(self.body),
            date,
            self.body,
        )


class MetricsResponse(web.Response):
    """Metrics in one of the formats of Prometheus."""

    media_type = "text/plain"

    def __init__(self, metrics: bytes, content_type: str) -> None:
        super().__init__(body=metrics, headers={**HEADERS, "Content-Type": content_type})


class PatchResponse(web.Response):
    """A patch, and in a header how many files it leaves out."""

    media_type = "text/x-diff"
    left_out = "X-Diff-Truncated"

    def __init__(self, patch: bytes, left_out: int) -> None:
        headers = {**HEADERS, "Content-Type": self.media_type, self.left_out: str(left_out)}
        super().__init__(body=patch, headers=headers)


class BackupResponse(web.StreamResponse):
    """Bytes that are sent as they are read.

    Args:
        size_bytes: How many there are, or None if that shows at the end only.

    Attributes:
        is_cut: It has begun, and not come to its end.
    """

    media_type = "application/octet-stream"

    def __init__(self, size_bytes: int | None) -> None:
        super().__init__(headers={**HEADERS, "Content-Type": self.media_type})
        self.content_length = size_bytes
        self._is_whole = False

    @property
    def is_cut(self) -> bool:
        return self.prepared and not self._is_whole

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self._is_whole = True


def _headers(status: int, headers: Mapping[str, str]) -> dict[str, str]:
    found = {**HEADERS, **headers}
    if status == NO_CONTENT:
        del found["Content-Type"]
    return found


@functools.lru_cache(maxsize=64)
def _head(status: int, *headers: tuple[str, str]) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in _headers(status, dict(headers)).items()]
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{''.join(lines)}".encode()


@functools.lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def id_header() -> dict[str, str]:
    """Return the header with the id of the request that is being served."""
    request_id = current_request_id()
    return {} if request_id is None else {REQUEST_ID: request_id}


def error_response(error: Exception) -> JsonResponse:
    """Return the response to an exception. One that is not a RuntimedError is logged and answered as `internal`."""
    if not isinstance(error, RuntimedError):
        log.error("a request failed", exc_info=error)
        error = Internal()
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed))
    if isinstance(error, RateLimited | Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    body = ErrorResponse(ErrorDetail(error.code, error.message))
    return JsonResponse(encode(body), status_of(type(error)), headers)
