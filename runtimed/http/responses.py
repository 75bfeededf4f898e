"""JSON responses."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from runtimed.wire.converter import encode

SERVER = "runtimed"
HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
}


def no_content() -> web.Response:
    """A success that has nothing to say."""
    return web.Response(status=204, headers={name: HEADERS[name] for name in ("Cache-Control", "Server")})


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A value of the model as a response."""
    return web.Response(body=encode(value), status=status, headers={**HEADERS, **(headers or {})})
