"""What an agent has said and nobody has heard yet."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from runtimed.model.event import Alert

MAX_WAITING = 256
"""Items that wait. One more, and the agent is not read until some are taken; or the oldest goes, while none are."""


MAX_WAITING_BYTES = 64 << 20
"""Bytes of an agent's lines, whatever is in them, that wait in the same way."""


@attrs.frozen(eq=False)
class Request:
    """An agent asks for a permission: the parameters of its request, and where the answer is awaited."""

    params: dict[str, Any]
    answer: asyncio.Future[dict[str, Any]]

    @property
    def session_id(self) -> str | None:
        """The session in whose name it is asked, where that is told."""
        return session_of(self.params)


@attrs.frozen
class Update:
    """A session update, and the session that it is one of, where that is told."""

    session_id: str | None
    told: dict[str, Any]


Item = Update | Alert | Request


def session_of(params: Mapping[str, Any]) -> str | None:
    """The session that the parameters of a message name."""
    named = params.get("sessionId")
    return named if isinstance(named, str) and named else None


class Inbox:
    """Keeps what came in its order. It has one consumer, which says by `listening` whether it takes things."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._divert: Callable[[Update], None] | None = None
        self.listening = False

    def put(self, item: Item) -> None:
        """Add what came. Never waits."""
        if self._divert is not None and isinstance(item, Update):
            self._divert(item)
            return
        self._items.append(item)
        self._bound()
        self._changed.set()

    def weigh(self, size: int) -> None:
        """So many bytes came, of which items are going to be made or not: count them, and have the consumer look."""
        self._bytes += size
        self._bound()
        self._changed.set()

    @contextmanager
    def diverted(self, divert: Callable[[Update], None]) -> Iterator[None]:
        """Give session updates to this instead."""
        self._divert = divert
        try:
            yield
        finally:
            self._divert = None

    def wake(self) -> None:
        """Have the consumer look, though nothing came."""
        self._changed.set()

    async def room(self) -> None:
        """Wait until more may come."""
        await self._room.wait()

    async def changed(self) -> None:
        """Wait until something came since the last call, or `wake` was called."""
        await self._changed.wait()
        self._changed.clear()

    @property
    def was_written_to(self) -> bool:
        """Whether the agent has written anything, an item or not, since the last `take`."""
        return self._bytes > 0

    def take(self) -> list[Item]:
        """All that waits."""
        taken = list(self._items)
        self._items.clear()
        self._bytes = 0
        self._room.set()
        return taken

    def _bound(self) -> None:
        if len(self._items) <= MAX_WAITING and self._bytes <= MAX_WAITING_BYTES:
            return
        if self.listening:
            self._room.clear()
        elif self._items:
            self._forget()

    def _forget(self) -> None:
        item = self._items.popleft()
        if isinstance(item, Request) and not item.answer.done():
            item.answer.cancel()
