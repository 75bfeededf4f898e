"""What the gateways of all Workers share: connections to upstreams, the sum of their requests, and counts."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator

import aiohttp

MAX_REQUESTS = 256
"""The requests of all Workers and gateways that are served at the same time."""

KEEPALIVE_S = 15.0
MAX_HEADER_BYTES = 32 * 2**10
READ_BYTES = 64 * 2**10
"""How much of a response is read ahead of a Worker that reads slowly; twice as much may be held."""

SILENCE_S = 60.0
"""The shortest time between two warnings for the same reason."""

MAX_WARNINGS = 256

log = logging.getLogger(__name__)


class Upstreams:
    """The way of all gateways to their upstreams.

    Attributes:
        requests: How many requests were answered, by the name of the gateway and the status of the response. A
            request whose client left before a response counts as 499.

    Args:
        max_requests: How many requests of all Workers are served at the same time.
    """

    def __init__(self, *, max_requests: int = MAX_REQUESTS) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.max_requests = max_requests
        self._active = 0
        self._session: aiohttp.ClientSession | None = None
        self._warned: dict[tuple[str, str], float] = {}

    @property
    def session(self) -> aiohttp.ClientSession:
        """The client. It keeps no cookies, follows no proxy variables and decodes no bodies."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
        return self._session

    @contextlib.contextmanager
    def slot(self) -> Iterator[bool]:
        """Count a request while the context lasts. Gives False, and counts nothing, if there are too many."""
        if self._active >= self.max_requests:
            yield False
            return
        self._active += 1
        try:
            yield True
        finally:
            self._active -= 1

    def warn(self, gateway: str, reason: str) -> None:
        """Log why requests fail, at most once in SILENCE_S for the same reason."""
        now, key = asyncio.get_running_loop().time(), (gateway, reason)
        if now - self._warned.get(key, -SILENCE_S) < SILENCE_S:
            return
        if len(self._warned) >= MAX_WARNINGS:
            self._warned.clear()
        self._warned[key] = now
        log.warning("a request through a gateway failed", extra={"gateway": gateway, "reason": reason})

    async def close(self) -> None:
        """Close the connections. The gateways are closed before."""
        if self._session is not None:
            await self._session.close()
