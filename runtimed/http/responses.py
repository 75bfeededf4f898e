"""What is answered: JSON, as a response of aiohttp or as the very bytes of one."""

import functools
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import attrs
from aiohttp import web

from runtimed.wire.converter import encode

SERVER = "runtimed"
HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
}
NO_CONTENT = 204


@attrs.frozen
class Answer:
    """A body of JSON with its status; `headers` are those beside HEADERS."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, value: Any) -> "Answer":
        """A value of the model; None is a success that has nothing to say."""
        return cls(encode(value)) if value is not None else cls(b"", NO_CONTENT)

    def response(self) -> web.Response:
        """As aiohttp sends it."""
        return web.Response(body=self.body or None, status=self.status, headers=_headers(self.status, self.headers))

    def written(self) -> bytes:
        """As HTTP/1.1 has it on a connection that stays open: the same bytes that aiohttp would send."""
        head, date = _head(self.status, *self.headers.items()), _date(int(time.time()))
        if self.status == NO_CONTENT:
            return b"%bDate: %b\r\n\r\n" % (head, date)
        return b"%bContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (head, len(self.body), date, self.body)


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
