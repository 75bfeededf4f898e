"""The requests that are being served, by the token that each was admitted with: what lasts ends with its token."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from runtimed.http.errors import Unauthorized
from runtimed.model.principal import Principal


class Session:
    """One request.

    Attributes:
        principal: The client that sent it.
        is_over: Its token was revoked or has expired since it was admitted.
    """

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.is_over = False
        self._watchers: list[Callable[[], object]] = []

    def check(self) -> None:
        """Raise Unauthorized if the token is no longer valid."""
        if self.is_over:
            raise Unauthorized

    @contextmanager
    def calling(self, watcher: Callable[[], object]) -> Iterator[None]:
        """Call the watcher when the token ends, at once if it has ended, while the context lasts."""
        self._watchers.append(watcher)
        try:
            if self.is_over:
                watcher()
            yield
        finally:
            self._watchers.remove(watcher)

    @asynccontextmanager
    async def limiting(self) -> AsyncIterator[None]:
        """Interrupt the body of the context when the token ends, at once if it has ended.

        Raises:
            Unauthorized: The token has ended.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                with self.calling(lambda: limit.reschedule(asyncio.get_running_loop().time())):
                    yield
        except TimeoutError:
            self.check()
            raise

    def end(self) -> None:
        """Note that the token is no longer valid. May be called again."""
        if self.is_over:
            return
        self.is_over = True
        for watcher in tuple(self._watchers):
            watcher()


SESSION = web.RequestKey("session", Session)
"""Where a request of aiohttp has its session."""


class Sessions:
    """The requests that are being served."""

    def __init__(self) -> None:
        self._open: dict[str, set[Session]] = {}

    @contextmanager
    def serving(self, request: web.BaseRequest, principal: Principal) -> Iterator[None]:
        """Keep the session of a request while the context lasts."""
        session = request[SESSION] = Session(principal)
        self._open.setdefault(principal.name, set()).add(session)
        try:
            yield
        finally:
            sessions = self._open[principal.name]
            sessions.remove(session)
            if not sessions:
                del self._open[principal.name]

    def end(self, token: str) -> None:
        """End the sessions of the token with this name."""
        for session in tuple(self._open.get(token, ())):
            session.end()
