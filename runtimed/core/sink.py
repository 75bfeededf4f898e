"""Where a backend's words enter the Runtime."""

from runtimed.core.lane import Lane
from runtimed.core.limits import Limits
from runtimed.model.event import (
    ErrorRaised,
    Payload,
    RunEnd,
    Shutdown,
    Snapshot,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    UserMessage,
)

RESERVED = (UserMessage, Snapshot, Shutdown)
OPENING = (TextDelta, ThinkingDelta)
CLOSING = (TextDone, ThinkingDone, RunEnd, ErrorRaised)


class LaneSink:
    """The EventSink of one Worker. It makes the backend wait while more events wait for the store than may."""

    def __init__(self, lane: Lane, limits: Limits) -> None:
        self._lane = lane
        self._limits = limits
        self._open_text = 0

    async def emit(self, *payloads: Payload) -> None:
        """See EventSink."""
        for payload in payloads:
            self._check(payload)
        self._lane.output(payloads)
        if self._lane.backlog > self._limits.max_pending_events:
            await self._lane.settled()

    def _check(self, payload: Payload) -> None:
        if isinstance(payload, RESERVED):
            raise ValueError(f"{payload.event} is for the Runtime to say")  # noqa: TRY004 a value, not a type
        if isinstance(payload, OPENING):
            self._open_text += len(payload.text)
        elif isinstance(payload, CLOSING):
            self._open_text = 0
        if self._open_text > self._limits.max_open_text:
            raise ValueError(f"expected a text_done at the latest behind {self._limits.max_open_text} characters")
