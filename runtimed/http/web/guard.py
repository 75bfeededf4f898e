"""The guard of every request: token, Host and Origin."""

import asyncio
import functools
import hmac
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from runtimed.errors import Unavailable
from runtimed.http.errors import ForbiddenOrigin, MisdirectedRequest, Unauthorized
from runtimed.http.web.local_address import HTTP_PORT, LocalAddress, local_address
from runtimed.model.principal import ADMIN, ANYONE, Principal

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
KNOWN_HOSTS = 256
"""How many pairs of a Host header and a socket address are cached."""

MAPPED = "::ffff:"
"""The prefix of an IPv4 address on a dual-stack socket."""

Headers = CIMultiDictProxy[str]

FREE_GUESSES = 10
GUESS_WINDOW_S = 10.0
GUESS_DELAY_S = 1.0
GUESSES_PER_S = 40
MAX_WAITING_GUESSES = 1_000

log = logging.getLogger(__name__)


def find_nobody(_secret: str) -> Principal | None:
    """Know no token but the first one."""
    return None


class Guard:
    """Checks token, Host and Origin of every request, before its body is read.

    Accepted hosts are loopback and the address that the connection came in on, both with its port, and
    `allowed_hosts`.

    Args:
        token: The first token. With None, every request that passes the other checks is admitted.
        allowed_hosts: Host names, each with or without a port.
        find_client: Returns the client that sends another token, or None if there is no such token.

    Attributes:
        failures: How many requests had no token, or a wrong one.
        generation: Changes whenever a request that was admitted before might be refused now. A connection that
            remembers an admission asks again after this number has changed.
    """

    def __init__(
        self,
        token: str | None,
        allowed_hosts: Iterable[str] = (),
        find_client: Callable[[str], Principal | None] = find_nobody,
    ) -> None:
        self._token = token.encode() if token is not None else None
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._find_client = find_client
        self._guesses = WrongTokens()
        self._closed = False
        self.failures = 0
        self.generation = 0
        self._is_ours = functools.lru_cache(maxsize=KNOWN_HOSTS)(self._find_ours)

    def replace_token(self, token: str) -> None:
        """Admit requests with this first token from now on, and none with the one before."""
        self._token = token.encode()
        self.forget_admissions()

    def forget_admissions(self) -> None:
        """Have every connection ask again with its next request: a token is no longer valid."""
        self.generation += 1

    def close(self) -> None:
        """Admit nothing from now on. May be called again."""
        self._closed = True
        self.forget_admissions()
        self._guesses.close()

    async def admit(self, request: web.BaseRequest) -> Principal:
        """Return the client of a request; a wrong token may have to wait for its refusal.

        Raises:
            MisdirectedRequest: The Host, or the host of the request line, is not this server's.
            ForbiddenOrigin: A browser sent the request.
            Unauthorized: The token is missing or wrong.
            Unavailable: The guard is closed.
        """
        local = local_address(request.transport) if request.transport is not None else None
        if not self._targets_us(request, local):
            raise MisdirectedRequest
        principal = self.find_principal(request.headers, local)
        if principal is not None:
            return principal
        if not self._names_us(request.headers, local):
            raise MisdirectedRequest
        if hdrs.ORIGIN in request.headers:
            raise ForbiddenOrigin
        if self._client(request.headers) is None:
            self.failures += 1
            await self._slow_down(request)
            raise Unauthorized
        raise Unavailable("the daemon is shutting down")

    def admit_anyone(self, request: web.BaseRequest) -> Principal:
        """Return the client of a request for an open route, which may name any host. Raises ForbiddenOrigin."""
        if hdrs.ORIGIN in request.headers:
            raise ForbiddenOrigin
        return ANYONE

    def find_principal(self, headers: Headers, local: LocalAddress | None) -> Principal | None:
        """Return the client of a request for a path, or None if the request is not admitted.

        Args:
            headers: The headers of the request.
            local: Where the request came in, or None for a Unix socket.
        """
        if self._closed or hdrs.ORIGIN in headers or not self._names_us(headers, local):
            return None
        return self._client(headers)

    def _names_us(self, headers: Headers, local: LocalAddress | None) -> bool:
        named = headers.getall(hdrs.HOST, ())
        return len(named) == 1 and self._is_ours(named[0], local)

    def _targets_us(self, request: web.BaseRequest, local: LocalAddress | None) -> bool:
        """Return whether the host in the request line, if any, would be accepted in the Host header."""
        if request.raw_path.startswith("/") or request.url.raw_host is None:
            return True
        return self._is_ours(request.url.raw_authority, local)

    def _find_ours(self, authority: str, local: LocalAddress | None) -> bool:
        match = HOST.fullmatch(authority)
        if match is None:
            return False
        default_port = HTTP_PORT if local is None else local.default_port
        name, port = match[1].lower().rstrip("."), int(match[2] or default_port)
        if name in self._allowed or f"{name}:{port}" in self._allowed:
            return True
        if local is None:
            return name in LOOPBACK
        address = local.host.removeprefix(MAPPED)
        return port == local.port and (name in LOOPBACK or name == (f"[{address}]" if ":" in address else address))

    def _client(self, headers: Headers) -> Principal | None:
        """Return the client whose token a request sends, or None for a missing or wrong one."""
        if self._token is None:
            return ADMIN
        given = _credentials(headers)
        if given is None:
            return None
        return ADMIN if _is_token(given, self._token) else self._find_client(given)

    async def _slow_down(self, request: web.BaseRequest) -> None:
        """Delay the refusal of a wrong token; cut the connection if too many wait."""
        if _credentials(request.headers) is None:
            return
        if not await self._guesses.wait() and request.transport is not None:
            request.transport.abort()


def _credentials(headers: Headers) -> str | None:
    """Return the bearer token of a request, or None without exactly one."""
    given = headers.getall(hdrs.AUTHORIZATION, ())
    if len(given) != 1:
        return None
    scheme, _, credentials = given[0].partition(" ")
    return credentials.strip(" ") if scheme.lower() == "bearer" else None


def _is_token(given: str, token: bytes) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token)


class WrongTokens:
    """Slows down guessing, over all connections together.

    FREE_GUESSES wrong tokens in GUESS_WINDOW_S seconds are answered at once. Others are answered GUESS_DELAY_S
    seconds later, at most GUESSES_PER_S a second. At most MAX_WAITING_GUESSES wait. Their number is logged once in
    GUESS_WINDOW_S. A right token is never delayed.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=FREE_GUESSES)
        self._next = 0.0
        self._waiting = 0
        self._unlogged = 0
        self._counting_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()

    async def wait(self) -> bool:
        """Count a wrong token and wait until it may be answered.

        Returns:
            False if too many wait already: the request should get no answer.
        """
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
        """End every wait, and log the count that is not logged yet. May be called again."""
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._log_count()

    def _count(self, now: float) -> None:
        self._unlogged += 1
        if self._timer is None:
            self._counting_since = now
            self._timer = asyncio.get_running_loop().call_later(GUESS_WINDOW_S, self._log_count)

    def _log_count(self) -> None:
        self._timer = None
        elapsed_s = time.monotonic() - self._counting_since
        fields = {"count": self._unlogged, "seconds": round(elapsed_s, 1)}
        log.warning("refused requests with a wrong token", extra=fields)
        self._unlogged = 0
