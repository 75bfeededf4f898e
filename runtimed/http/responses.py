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


@attrs.frozen
class Answer:
    """A body of JSON with its status; `headers` are those beside HEADERS."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, value: Any) -> "Answer":
        """A value of the model."""
        return cls(encode(value))

    def response(self) -> web.Response:
        """As aiohttp sends it."""
        return web.Response(body=self.body, status=self.status, headers={**HEADERS, **self.headers})

    def written(self) -> bytes:
        """As HTTP/1.1 has it on a connection that stays open: the same bytes that aiohttp would send."""
        head = _head(self.status, *self.headers.items())
        return b"%bContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (
            head,
            len(self.body),
            _date(int(time.time())),
            self.body,
        )


@functools.lru_cache(maxsize=64)
def _head(status: int, *headers: tuple[str, str]) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in (*HEADERS.items(), *headers)]
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{''.join(lines)}".encode()


@functools.lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
