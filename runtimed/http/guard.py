"""Who may ask at all: the token, the Host and the Origin of every request, before its body is read."""

import asyncio
import functools
import hmac
import logging
import re
import time
from collections import deque
from collections.abc import Iterable

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from runtimed.errors import ForbiddenOrigin, MisdirectedRequest, Unauthorized, Unavailable

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
DEFAULT_PORT = 80
KNOWN_HOSTS = 256
"""How many pairs of a Host header and an address are remembered."""

MAPPED = "::ffff:"
"""How a socket of both families shows an IPv4 address."""

Headers = CIMultiDictProxy[str]

FREE_GUESSES = 10
GUESS_WINDOW_S = 10.0
GUESS_DELAY_S = 1.0
GUESSES_PER_S = 40
MAX_WAITING_GUESSES = 1_000

log = logging.getLogger(__name__)


class Guard:
    """Turns away whoever has not the token, asks for another host, or is a browser.

    Accepted hosts are loopback and the address that the connection came in on, with its port, and `allowed_hosts`:
    names, or names with a port. Without a token everybody who passes the rest is let in, once `closed` nobody.
    Whoever remembers that a request was let in asks again once `generation` is another.
    """

    def __init__(self, token: str | None, allowed_hosts: Iterable[str] = ()) -> None:
        self._token = token.encode() if token is not None else None
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._guesses = WrongTokens()
        self.closed = False
        self.generation = 0
        self._is_ours = functools.lru_cache(maxsize=KNOWN_HOSTS)(self._find_ours)

    def close(self) -> None:
        """Let nobody in any more."""
        self.closed = True
        self.generation += 1
        self._guesses.close()

    async def admit(self, request: web.BaseRequest) -> None:
        """Let a request in. Raises MisdirectedRequest, ForbiddenOrigin, Unauthorized, or Unavailable once closed."""
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        if not (self._names_us(request.headers, local) and self._targets_us(request, local)):
            raise MisdirectedRequest
        if hdrs.ORIGIN in request.headers:
            raise ForbiddenOrigin
        await self._check_token(request)
        if self.closed:
            raise Unavailable("the daemon is shutting down")

    def admits(self, headers: Headers, local: object) -> bool:
        """Whether `admit` would let in a request for a path with these headers, on a socket with this address."""
        return (
            not self.closed
            and hdrs.ORIGIN not in headers
            and self._names_us(headers, local)
            and (self._token is None or _is_token(_credentials(headers), self._token))
        )

    def _names_us(self, headers: Headers, local: object) -> bool:
        named = headers.getall(hdrs.HOST, ())
        return len(named) == 1 and self._is_ours(named[0], local)

    def _targets_us(self, request: web.BaseRequest, local: object) -> bool:
        """Whether the request line names no other host than the Host header may."""
        if request.raw_path.startswith("/") or request.url.raw_host is None:
            return True
        return self._is_ours(request.url.raw_authority, local)

    def _find_ours(self, authority: str, local: object) -> bool:
        match = HOST.fullmatch(authority)
        if match is None:
            return False
        name, port = match[1].lower().rstrip("."), int(match[2] or DEFAULT_PORT)
        if name in self._allowed or f"{name}:{port}" in self._allowed:
            return True
        if not isinstance(local, tuple):
            return name in LOOPBACK
        address = local[0].removeprefix(MAPPED)
        return port == local[1] and (name in LOOPBACK or name == (f"[{address}]" if ":" in address else address))

    async def _check_token(self, request: web.BaseRequest) -> None:
        if self._token is None:
            return
        given = _credentials(request.headers)
        if _is_token(given, self._token):
            return
        if given is not None and not await self._guesses.another() and request.transport is not None:
            request.transport.abort()
        raise Unauthorized


def _credentials(headers: Headers) -> str | None:
    """What a request bears, or None where it bears nothing, or that in another way."""
    given = headers.getall(hdrs.AUTHORIZATION, ())
    if len(given) != 1:
        return None
    scheme, _, credentials = given[0].partition(" ")
    return credentials.strip(" ") if scheme.lower() == "bearer" else None


def _is_token(given: str | None, token: bytes) -> bool:
    return given is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token)


class WrongTokens:
    """Makes guessing slow: FREE_GUESSES wrong tokens in GUESS_WINDOW_S are answered at once, the others GUESS_DELAY_S
    later, and all of them together, whatever connections they come on, at GUESSES_PER_S.

    The right token is never delayed. At most MAX_WAITING_GUESSES wait. The log is told how many there were, once in
    GUESS_WINDOW_S. After `close` nothing waits any more.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=FREE_GUESSES)
        self._next = 0.0
        self._waiting = 0
        self._untold = 0
        self._untold_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()

    async def another(self) -> bool:
        """A wrong token was given: wait until it may be answered. False where too many wait already."""
        if self._closed.is_set():
            return True
        now = time.monotonic()
        self._count(now)
        full = len(self._recent) == FREE_GUESSES and now - self._recent[0] < GUESS_WINDOW_S
        self._recent.append(now)
        if not full:
            return True
        if self._waiting >= MAX_WAITING_GUESSES:
            return False
        self._next = max(self._next + 1 / GUESSES_PER_S, now + GUESS_DELAY_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._next - now):
                await self._closed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
        return True

    def close(self) -> None:
        """End every wait and log the count that is not logged yet. Harmless when repeated."""
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._tell()

    def _count(self, now: float) -> None:
        self._untold += 1
        if self._timer is None:
            self._untold_since = now
            self._timer = asyncio.get_running_loop().call_later(GUESS_WINDOW_S, self._tell)

    def _tell(self) -> None:
        self._timer = None
        took = time.monotonic() - self._untold_since
        log.warning("refused %d requests with a wrong token in %.1f s", self._untold, took)
        self._untold = 0
