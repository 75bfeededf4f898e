"""Where a backend's words enter the Runtime."""

from collections import Counter

from runtimed.core.decide import END_OF_RUN
from runtimed.core.lane import Lane
from runtimed.core.limits import Limits
from runtimed.model.event import (
    Payload,
    Shutdown,
    Snapshot,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ToolCallArgsDelta,
    ToolCallDone,
    ToolResult,
    UserMessage,
)

RESERVED = (UserMessage, Snapshot, Shutdown)
Growing = TextDelta | ThinkingDelta | ToolCallArgsDelta
Ending = TextDone | ThinkingDone | ToolCallDone | ToolResult


class LaneSink:
    """The EventSink of one Worker. It makes the backend wait while more events wait for the store than may."""

    def __init__(self, lane: Lane, limits: Limits) -> None:
        self._lane = lane
        self._limits = limits
        self._open = OpenText()

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
        self._open.take(payload)
        if self._open.characters > self._limits.max_open_text:
            raise ValueError(
                "expected a text_done, thinking_done or tool_call_done at the latest behind "
                f"{self._limits.max_open_text} characters (max_open_text)"
            )


class OpenText:
    """Counts the characters of the text, the thought and the tool calls that were streamed and not ended yet."""

    def __init__(self) -> None:
        self.characters = 0
        self._by_block: Counter[str] = Counter()

    def take(self, payload: Payload) -> None:
        """Count one more event."""
        if isinstance(payload, Growing):
            self._grow(_block(payload), payload.json if isinstance(payload, ToolCallArgsDelta) else payload.text)
        elif isinstance(payload, Ending):
            self.characters -= self._by_block.pop(_block(payload), 0)
        elif isinstance(payload, END_OF_RUN):
            self.characters = 0
            self._by_block.clear()

    def _grow(self, block: str, text: str) -> None:
        if text:
            self.characters += len(text)
            self._by_block[block] += len(text)


def _block(payload: Growing | Ending) -> str:
    if isinstance(payload, ToolCallArgsDelta | ToolCallDone | ToolResult):
        return f"tool call {payload.id}"
    return "text" if isinstance(payload, TextDelta | TextDone) else "thought"
