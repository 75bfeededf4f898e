"""The way from what an agent said to what the Worker says."""

import asyncio
import math
from collections.abc import Iterable, Iterator

from runtimed.core.ports import EventSink
from runtimed.execution.acp.inbox import Inbox, Item, Request, Update
from runtimed.execution.acp.latest import REPLACING, Latest
from runtimed.execution.acp.mapping import Narration
from runtimed.execution.acp.others import OtherSessions
from runtimed.execution.acp.questions import CANCELLED, Questions
from runtimed.execution.profile import Profile
from runtimed.model.event import Alert, Payload, SystemItem

SETTLE_S = 0.05
"""How long nothing more may come of an agent that has answered, until what it said is taken to be complete."""

MAX_SETTLE_S = 2.0
"""How long an agent that has answered may go on talking until its run ends nevertheless."""


class Listener:
    """The one consumer of an inbox. Owns the questions that came out of it.

    `session_id` is the Worker's own session; what names another one is told apart.
    """

    def __init__(self, profile: Profile, sink: EventSink, inbox: Inbox, max_open_text: int) -> None:
        self._sink = sink
        self._inbox = inbox
        self._others = OtherSessions()
        self._latest = Latest()
        self._timer: asyncio.TimerHandle | None = None
        self.session_id = ""
        self.narration = Narration(max_open_text)
        self._questions = Questions(profile, sink, self.narration, self._others)

    async def say(self, payloads: Iterable[Payload]) -> None:
        """Give these to the sink, at once."""
        said = tuple(payloads)
        if said:
            await self._sink.emit(*said)

    async def hear(self, *, asked: bool = True) -> None:
        """Say all that has come, and ask what is asked; unless `asked`, that is answered with cancelled."""
        said: list[Payload] = []
        if self._inbox.was_written_to:
            await self._sink.emit()  # it is not silent, whether there is an event in that or not
        for item in self._inbox.take():
            said += self._payloads(item)
            if isinstance(item, Request):
                await self.say(said)
                said = []
                self._ask(item, asked=asked)
        said += self._latest.due(asyncio.get_running_loop().time())
        self._look_again()
        await self.say(said)

    def held(self) -> tuple[Payload, ...]:
        """What was held back for something newer to replace it: the last of each."""
        if self._timer is not None:
            self._timer.cancel()
        return tuple(self._latest.rest())

    async def settle(self) -> None:
        """Hear what still comes of an agent that has answered."""
        loop = asyncio.get_running_loop()
        end = loop.time() + MAX_SETTLE_S
        while loop.time() < end:
            try:
                async with asyncio.timeout(SETTLE_S):
                    await self._inbox.changed()
            except TimeoutError:
                break
            await self.hear(asked=False)

    async def dismiss(self) -> None:
        """Answer all questions that wait with cancelled."""
        await self._questions.cancel()

    def _payloads(self, item: Item) -> Iterable[Payload]:
        if isinstance(item, Alert):
            return (item,)
        if isinstance(item, Request):
            return self._shown(item)
        other = self._other(item)
        told = self.narration.update(item.told) if other is None else (self._others.update(other, item.told),)
        kind = item.told.get("sessionUpdate")
        if isinstance(kind, str) and kind in REPLACING:
            return self._sparsely((other or "", kind), told)
        return told

    def _shown(self, request: Request) -> Iterable[Payload]:
        """The events that show the tool call for which a permission is asked."""
        call = request.params.get("toolCall")
        if not isinstance(call, dict):
            return ()
        other = self._other(request)
        return self.narration.permission(call) if other is None else (self._others.permission(other, call),)

    def _other(self, item: Update | Request) -> str | None:
        """The session that something belongs to, where that is not the Worker's own."""
        return None if item.session_id in {None, self.session_id} else item.session_id

    def _sparsely(self, key: tuple[str, str], told: Iterable[Payload]) -> Iterator[Payload]:
        now = asyncio.get_running_loop().time()
        for payload in told:
            if isinstance(payload, SystemItem):
                yield from self._latest.add(key, payload, now)
            else:
                yield payload

    def _look_again(self) -> None:
        """Have the inbox looked at when something that is held back is due."""
        if self._timer is not None:
            self._timer.cancel()
        if (due := self._latest.next_due) < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._inbox.wake)

    def _ask(self, request: Request, *, asked: bool) -> None:
        if asked:
            self._questions.ask(request, self._other(request))
        elif not request.answer.done():
            request.answer.set_result(CANCELLED)
