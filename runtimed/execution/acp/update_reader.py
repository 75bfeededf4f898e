"""Read the messages of an agent from its inbox, and emit them as events."""

import asyncio
import math
from collections.abc import Iterable, Iterator

from runtimed.core.ports import EventSink
from runtimed.execution.acp.inbox import Elicitation, Inbox, Item, Request, Update
from runtimed.execution.acp.permissions import PermissionRequests
from runtimed.execution.acp.system_items import OtherSessions
from runtimed.execution.acp.update_throttle import REPLACING, UpdateThrottle
from runtimed.execution.acp.update_translator import UpdateTranslator
from runtimed.execution.profile import Profile
from runtimed.model.event import Alert, Payload, SystemItem

SETTLE_S = 0.05
"""How long an agent must be silent after its answer before its output counts as complete."""

MAX_SETTLE_S = 2.0
"""How long an agent may go on talking after its answer before its run ends anyway."""


class UpdateReader:
    """The one consumer of an inbox. It owns the permission requests that it reads.

    Attributes:
        session_id: The Worker's own session; updates of others become system items.
        translator: Translates the updates of that session.
    """

    def __init__(self, profile: Profile, sink: EventSink, inbox: Inbox, max_open_text: int) -> None:
        self._sink = sink
        self._inbox = inbox
        self._others = OtherSessions()
        self._throttle = UpdateThrottle()
        self._timer: asyncio.TimerHandle | None = None
        self.session_id = ""
        self.translator = UpdateTranslator(max_open_text)
        self._requests = PermissionRequests(profile, sink, self.translator, self._others)

    async def emit(self, payloads: Iterable[Payload]) -> None:
        """Emit events together."""
        emitted = tuple(payloads)
        if emitted:
            await self._sink.emit(*emitted)

    async def read(self, *, asked: bool = True) -> None:
        """Emit all that has come.

        Args:
            asked: Put permission requests to somebody; otherwise they are answered with `cancelled`.
        """
        events: list[Payload] = []
        if self._inbox.was_written_to:
            await self._sink.emit()  # it is not silent, whether there is an event in that or not
        for item in self._inbox.take():
            events += self._payloads(item)
            if isinstance(item, Request):
                await self.emit(events)
                events = []
                self._ask(item, asked=asked)
        events += self._throttle.due(asyncio.get_running_loop().time())
        self._schedule()
        await self.emit(events)

    def held(self) -> tuple[Payload, ...]:
        """Return the updates that were held back for newer ones to replace them."""
        if self._timer is not None:
            self._timer.cancel()
        return tuple(self._throttle.rest())

    async def settle(self) -> None:
        """Emit what an agent still sends after its answer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + MAX_SETTLE_S
        while loop.time() < end:
            try:
                async with asyncio.timeout(SETTLE_S):
                    await self._inbox.changed()
            except TimeoutError:
                break
            await self.read(asked=False)

    async def dismiss(self) -> None:
        """Answer all waiting permission requests with `cancelled`."""
        await self._requests.cancel()

    def _payloads(self, item: Item) -> Iterable[Payload]:
        if isinstance(item, Alert):
            return (item,)
        if isinstance(item, Request):
            return self._shown(item)
        other = self._other(item)
        payloads = (
            self.translator.update(item.fields) if other is None else (self._others.update(other, item.fields),)
        )
        kind = item.fields.get("sessionUpdate")
        if isinstance(kind, str) and kind in REPLACING:
            return self._throttled((other or "", kind), payloads)
        return payloads

    def _shown(self, request: Request) -> Iterable[Payload]:
        """The events that show the tool call of a permission request."""
        if isinstance(request, Elicitation):
            return self.translator.close_text()
        call = request.params.get("toolCall")
        if not isinstance(call, dict):
            return ()
        other = self._other(request)
        return self.translator.permission(call) if other is None else (self._others.permission(other, call),)

    def _other(self, item: Update | Request) -> str | None:
        """The session of an item, if that is not the Worker's own."""
        return None if item.session_id in {None, self.session_id} else item.session_id

    def _throttled(self, key: tuple[str, str], payloads: Iterable[Payload]) -> Iterator[Payload]:
        now = asyncio.get_running_loop().time()
        for payload in payloads:
            if isinstance(payload, SystemItem):
                yield from self._throttle.add(key, payload, now)
            else:
                yield payload

    def _schedule(self) -> None:
        """Wake the reader when an update that is held back is due."""
        if self._timer is not None:
            self._timer.cancel()
        if (due := self._throttle.next_due) < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._inbox.wake)

    def _ask(self, request: Request, *, asked: bool) -> None:
        if not asked:
            if not request.answer.done():
                request.answer.set_result(dict(request.cancelled))
        elif isinstance(request, Elicitation):
            self._requests.ask_form(request, self._other(request))
        else:
            self._requests.ask(request, self._other(request))
