"""Count the text that a backend has streamed and not ended."""

from runtimed.core.state.decisions.run_end import END_OF_RUN
from runtimed.model.event import (
    Payload,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ToolCallArgsDelta,
    ToolCallDone,
    ToolResult,
)

MAX_OPEN_TEXT = 8 * 2**20
"""The most characters of text, thought and arguments in flight, unless a limit is set."""

Growing = TextDelta | ThinkingDelta | ToolCallArgsDelta
Ending = TextDone | ThinkingDone | ToolCallDone | ToolResult


class OpenText:
    """Counts the characters of texts, thoughts and tool calls in flight."""

    __slots__ = ("_by_block", "characters")

    def __init__(self) -> None:
        self.characters = 0
        self._by_block: dict[str, int] = {}

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
            self._by_block[block] = self._by_block.get(block, 0) + len(text)


def _block(payload: Growing | Ending) -> str:
    if isinstance(payload, ToolCallArgsDelta | ToolCallDone | ToolResult):
        return f"tool call {payload.id}"
    return "text" if isinstance(payload, TextDelta | TextDone) else "thought"
