"""What an agent replays when it loads a session, next to what the transcript has."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from runtimed.core.change import Entry

MAX_REPLAY = 8 << 20
"""Characters of a replay that are held, the newest."""


class Replay:
    """The user's messages of a replay; nothing of it is said again."""

    def __init__(self) -> None:
        self._pieces: deque[str] = deque()
        self._size = 0

    def update(self, told: Mapping[str, Any]) -> None:
        """Take a session update that came while the session was loaded."""
        content = told.get("content")
        if told.get("sessionUpdate") != "user_message_chunk" or not isinstance(content, dict):
            return
        if isinstance(text := content.get("text"), str):
            self._pieces.append(text)
            self._size += len(text)
        while self._size > MAX_REPLAY:
            self._size -= len(self._pieces.popleft())

    def agrees(self, history: Sequence[Entry]) -> bool:
        """Whether what was said to the agent, as far as it is given, is the last that the agent remembers."""
        remembered = "".join(self._pieces).rstrip()
        messages = [entry.content.strip() for entry in history if entry.role != "assistant"]
        if messages and not remembered.endswith(messages[-1]):
            return False
        end = len(remembered)
        for message in reversed(messages):
            end = remembered.rfind(message, 0, end)
            if end < 0:
                return False
        return True
