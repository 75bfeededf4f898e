"""Messages of an agent that wait to be translated."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import attrs

from runtimed.model.event import Alert

MAX_WAITING = 256
"""The most items that wait. Beyond it the agent is not read; while nobody takes items, the oldest is dropped."""


MAX_WAITING_BYTES = 64 << 20
"""The most bytes of an agent's lines that wait, with the same effect."""


@attrs.frozen(eq=False)
class Request:
    """A permission request: its parameters, and the future of the answer."""

    cancelled: ClassVar[Mapping[str, Any]] = {"outcome": {"outcome": "cancelled"}}
    """The answer where nobody rules on it."""

    params: dict[str, Any]
    answer: asyncio.Future[dict[str, Any]]

    @property
    def session_id(self) -> str | None:
        """The session that asks, if the request names it."""
        return session_of(self.params)


@attrs.frozen(eq=False)
class Elicitation(Request):
    """A form that somebody is to fill."""

    cancelled: ClassVar[Mapping[str, Any]] = {"action": "cancel"}


@attrs.frozen
class Update:
    """A session update, and its session if the agent names it."""

    session_id: str | None
    fields: dict[str, Any]


Item = Update | Alert | Request


def session_of(params: Mapping[str, Any]) -> str | None:
    """Return the session that the parameters of a message name, if any."""
    named = params.get("sessionId")
    return named if isinstance(named, str) and named else None


class Inbox:
    """Keeps items in order for one consumer. The consumer sets `listening` while it takes items."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._divert: Callable[[Update], None] | None = None
        self.listening = False

    def put(self, item: Item) -> None:
        """Add an item. Never waits."""
        if self._divert is not None and isinstance(item, Update):
            self._divert(item)
            return
        self._items.append(item)
        self._bound()
        self._changed.set()

    def weigh(self, size: int) -> None:
        """Count bytes that arrived, whether or not they become items, and wake the consumer."""
        self._bytes += size
        self._bound()
        self._changed.set()

    @contextmanager
    def diverted(self, divert: Callable[[Update], None]) -> Iterator[None]:
        """Pass session updates to this function instead of keeping them."""
        self._divert = divert
        try:
            yield
        finally:
            self._divert = None

    def wake(self) -> None:
        """Wake the consumer."""
        self._changed.set()

    async def room(self) -> None:
        """Wait until the agent may be read again."""
        await self._room.wait()

    async def changed(self) -> None:
        """Wait until something has arrived, or `wake` was called, since the last call."""
        await self._changed.wait()
        self._changed.clear()

    @property
    def was_written_to(self) -> bool:
        """Whether the agent has written any bytes since the last `take`."""
        return self._bytes > 0

    def take(self) -> list[Item]:
        """Take all items."""
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
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        item = self._items.popleft()
        if isinstance(item, Request) and not item.answer.done():
            item.answer.cancel()
