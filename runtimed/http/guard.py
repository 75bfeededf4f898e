"""Who may ask at all: the token, the Host and the Origin of every request, before its body is read."""

import asyncio
import hmac
import re
import time
from collections import deque
from collections.abc import Iterable

from aiohttp import hdrs, web

from runtimed.errors import ForbiddenOrigin, MisdirectedRequest, Unauthorized, Unavailable

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
DEFAULT_PORT = 80
MAPPED = "::ffff:"
"""How a socket of both families shows an IPv4 address."""

FREE_GUESSES = 10
GUESS_WINDOW_S = 10.0
GUESS_DELAY_S = 1.0


class Guard:
    """Turns away whoever has not the token, asks for another host, or is a browser.

    Accepted hosts are loopback and the address that the connection came in on, with its port, and `allowed_hosts`:
    names, or names with a port. Without a token everybody who passes the rest is let in.
    """

    def __init__(self, token: str | None, allowed_hosts: Iterable[str] = ()) -> None:
        self._token = token.encode() if token is not None else None
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._guesses = WrongTokens()
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    async def admit(self, request: web.BaseRequest) -> None:
        """Let a request in. Raises MisdirectedRequest, ForbiddenOrigin, Unauthorized, or Unavailable once closed."""
        self._check_host(request)
        if hdrs.ORIGIN in request.headers:
            raise ForbiddenOrigin
        if self._token is not None:
            await self._check_token(request, self._token)
        if self._closed:
            raise Unavailable("the daemon is shutting down")

    def _check_host(self, request: web.BaseRequest) -> None:
        named = request.headers.getall(hdrs.HOST, [])
        if len(named) != 1 or not self._is_ours(named[0], request):
            raise MisdirectedRequest
        if request.url.raw_host is not None and not request.raw_path.startswith("/"):
            authority = request.url.raw_authority
            if not self._is_ours(authority, request):
                raise MisdirectedRequest

    def _is_ours(self, authority: str, request: web.BaseRequest) -> bool:
        match = HOST.fullmatch(authority)
        if match is None:
            return False
        name, port = match[1].lower().rstrip("."), int(match[2] or DEFAULT_PORT)
        if name in self._allowed or f"{name}:{port}" in self._allowed:
            return True
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        if not isinstance(local, tuple):
            return name in LOOPBACK
        address = local[0].removeprefix(MAPPED)
        return port == local[1] and (name in LOOPBACK or name == (f"[{address}]" if ":" in address else address))

    async def _check_token(self, request: web.BaseRequest, token: bytes) -> None:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        if len(given) != 1:
            raise Unauthorized
        scheme, _, credentials = given[0].partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized
        if not hmac.compare_digest(credentials.strip(" ").encode("utf-8", "surrogateescape"), token):
            await self._guesses.another()
            raise Unauthorized


class WrongTokens:
    """Makes guessing slow: past FREE_GUESSES in GUESS_WINDOW_S each wrong token is answered GUESS_DELAY_S later.

    The right token is never delayed, and what waits is bounded by the number of connections.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=FREE_GUESSES)

    async def another(self) -> None:
        """A wrong token was given."""
        now = time.monotonic()
        full = len(self._recent) == FREE_GUESSES and now - self._recent[0] < GUESS_WINDOW_S
        self._recent.append(now)
        if full:
            await asyncio.sleep(GUESS_DELAY_S)
