"""Request bodies: which ones a route accepts, and how they are read."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import attrs
from aiohttp import hdrs, web

from runtimed.errors import InvalidJson, InvalidRequest
from runtimed.http.errors import PayloadTooLarge, UnsupportedMediaType
from runtimed.wire.converter import decode

JSON_TYPE = re.compile(r"application/json(\s*;\s*charset\s*=\s*\"?utf-8\"?)?\s*", re.IGNORECASE)
BODY_TIMEOUT_S = 60.0
MAX_INLINE_BYTES = 2**16
"""A larger body is parsed in a thread."""


@attrs.frozen
class Body:
    """The parameter of a handler that takes the body: its name, its attrs class, and whether a body is required."""

    name: str
    kind: type
    required: bool


class BodyReader:
    """Checks, receives and parses the bodies of one route.

    Args:
        body: The parameter that takes the body.
        max_bytes: The largest body that is accepted, in bytes.
        parsing: A lock that is held while a large body is parsed. Routes that share it parse one at a time.
    """

    def __init__(self, body: Body, max_bytes: int, parsing: asyncio.Lock) -> None:
        self.name = body.name
        self._body = body
        self._max_bytes = max_bytes
        self._parsing = parsing

    def check(self, headers: Mapping[str, str], length: int, *, has_body: bool) -> None:
        """Check what a request head says about its body.

        Args:
            headers: The headers of the request.
            length: The value of Content-Length, or 0 without one.
            has_body: Whether the request has a body.

        Raises:
            UnsupportedMediaType: The body is not plain JSON.
            PayloadTooLarge: The body is larger than the limit.
        """
        if hdrs.CONTENT_ENCODING in headers:
            raise UnsupportedMediaType("Content-Encoding: expected none")
        if length > self._max_bytes:
            raise PayloadTooLarge(self._max_bytes)
        if (has_body or self._body.required) and not _is_json(headers.get(hdrs.CONTENT_TYPE, "")):
            raise UnsupportedMediaType("Content-Type: expected application/json")

    def parse(self, data: bytes) -> Any:
        """Return the value of a whole body; None for an empty one that is optional.

        Raises:
            InvalidJson: The body is not the JSON that the route expects.
        """
        return decode(data, self._body.kind) if data or self._body.required else None

    async def read(self, request: web.BaseRequest) -> tuple[Any, bytes]:
        """Check, receive and parse the body of a request.

        Returns:
            The value of the body, and its bytes.

        Raises:
            RuntimedError: The body is not accepted, does not arrive, or is not the expected JSON.
        """
        self.check(request.headers, request.content_length or 0, has_body=request.can_read_body)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = await self._receive(request)
        return await self._parse(data), data

    async def _receive(self, request: web.BaseRequest) -> bytes:
        chunks, size = [], 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while chunk := await request.content.readany():
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise PayloadTooLarge(self._max_bytes)
                    chunks.append(chunk)
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} seconds") from None
        except (web.RequestPayloadError, ConnectionError):
            raise InvalidJson("the body ended early") from None
        return b"".join(chunks)

    async def _parse(self, data: bytes) -> Any:
        """Parse a large body in a thread, so that other requests are answered meanwhile.

        One at a time: parsing may hold the interpreter for 0.2 s, and several threads would do so in turn. The lock
        is released when the thread has ended, even if the request was cancelled before.
        """
        if len(data) <= MAX_INLINE_BYTES:
            return self.parse(data)
        await self._parsing.acquire()
        try:
            parsed = asyncio.get_running_loop().run_in_executor(None, self.parse, data)
        except BaseException:
            self._parsing.release()
            raise
        parsed.add_done_callback(lambda _: self._parsing.release())
        return await asyncio.shield(parsed)


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or JSON_TYPE.fullmatch(media_type) is not None
