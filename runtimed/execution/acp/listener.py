"""The way from what an agent said to what the Worker says."""

import asyncio
from collections.abc import Iterable

from runtimed.core.ports import EventSink
from runtimed.execution.acp.inbox import Inbox, Item, Request
from runtimed.execution.acp.mapping import Narration
from runtimed.execution.acp.questions import CANCELLED, Questions
from runtimed.execution.profile import Profile
from runtimed.model.event import Alert, Payload

SETTLE_S = 0.05
"""How long nothing more may come of an agent that has answered, until what it said is taken to be complete."""

MAX_SETTLE_S = 2.0
"""How long an agent that has answered may go on talking until its run ends nevertheless."""


class Listener:
    """The one consumer of an inbox. Owns the questions that came out of it."""

    def __init__(self, profile: Profile, sink: EventSink, inbox: Inbox) -> None:
        self._sink = sink
        self._inbox = inbox
        self.narration = Narration()
        self._questions = Questions(profile, sink, self.narration)

    async def say(self, payloads: Iterable[Payload]) -> None:
        """Give these to the sink, at once."""
        said = tuple(payloads)
        if said:
            await self._sink.emit(*said)

    async def hear(self, *, asked: bool = True) -> None:
        """Say all that has come, and ask what is asked; unless `asked`, that is answered with cancelled."""
        said: list[Payload] = []
        for item in self._inbox.take():
            said += self._payloads(item)
            if isinstance(item, Request):
                await self.say(said)
                said = []
                self._ask(item, asked=asked)
        await self.say(said)

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
            call = item.params.get("toolCall")
            return self.narration.permission(call) if isinstance(call, dict) else ()
        return self.narration.update(item)

    def _ask(self, request: Request, *, asked: bool) -> None:
        if asked:
            self._questions.ask(request)
        elif not request.answer.done():
            request.answer.set_result(CANCELLED)
