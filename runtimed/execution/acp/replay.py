"""Compare what an agent replays when it loads a session with the transcript."""

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtimed.core.state.change import Entry
from runtimed.execution.acp.inbox import Update
from runtimed.execution.acp.saved_session import KnownDifference

MAX_REPLAY = 8 << 20
"""The most characters of a replay that are kept; the newest stay."""


class Replay:
    """The user's messages in the replay of a session, which are not emitted again."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._pieces: deque[str] = deque()
        self._size = 0

    def take(self, update: Update) -> None:
        """Take a session update that came while the session was loaded."""
        content = update.fields.get("content")
        is_own = update.session_id in (None, self._session_id)
        if is_own and update.fields.get("sessionUpdate") == "user_message_chunk" and isinstance(content, dict):
            self._remember(content)

    def _remember(self, content: Mapping[str, Any]) -> None:
        if isinstance(text := content.get("text"), str):
            self._pieces.append(text)
            self._size += len(text)
        while self._size > MAX_REPLAY:
            self._size -= len(self._pieces.popleft())

    def agrees(self, history: Sequence[Entry], known: KnownDifference | None = None) -> bool:
        """Whether the agent's memory ends with the inputs of the transcript.

        Args:
            history: The newest entries of the transcript.
            known: A difference that was reported before; if the memory up to it is unchanged, only what follows is
                compared.
        """
        remembered = self._remembered()
        if known is None or _digest(remembered[: known.size]) != known.digest:
            return _ends_with(remembered, _inputs(history))
        inputs = _inputs(entry for entry in history if entry.sequence > known.sequence)
        complete = any(entry.sequence <= known.sequence for entry in history)
        later = remembered[known.size :]
        return _ends_with(later, inputs) and (bool(inputs) or not complete or not later)

    def known(self, history: Sequence[Entry]) -> KnownDifference:
        """Return this difference, for the next comparison."""
        remembered = self._remembered()
        return KnownDifference(history[-1].sequence, len(remembered), _digest(remembered))

    def _remembered(self) -> str:
        return "".join(self._pieces).rstrip()


def _inputs(history: Iterable[Entry]) -> list[str]:
    return [entry.content.strip() for entry in history if entry.role != "assistant"]


def _ends_with(remembered: str, messages: Sequence[str]) -> bool:
    if messages and not remembered.endswith(messages[-1]):
        return False
    end = len(remembered)
    for message in reversed(messages):
        end = remembered.rfind(message, 0, end)
        if end < 0:
            return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
