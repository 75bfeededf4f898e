"""Detect a model provider's error that ended a run, if the agent reports it beside its answer."""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_WORDS = 500
"""The most characters of an error that are kept."""

UNKNOWN = "the agent reported an error of its model provider"
_PROSE = ("agent_message_chunk", "agent_thought_chunk")
_CALLS = ("tool_call", "tool_call_update")


class ProviderError:
    """Watches the updates of one run for an error, which no longer counts once the agent has continued or recovered.

    Recognized are an update of a kind that ends in `error`; in `_meta`, or an object directly in it, an `error` or a
    `threadStatus` of `systemError`; and in the answer an `error`, or a stop reason that speaks of one. An `error` in
    the `_meta` of a tool call is one of the tool.
    """

    def __init__(self) -> None:
        self._words = ""
        self._said = ""
        self._failed = False
        self._stuck = False

    def note(self, update: Mapping[str, Any]) -> None:
        """Take a session update of the run."""
        kind = update.get("sessionUpdate")
        if self._stuck and kind == "agent_message_chunk":  # what it says to the user then is the error
            self._words = self._words or _text(update).strip()[:MAX_WORDS]
        if kind in _PROSE:
            self._said = (self._said + _text(update))[: MAX_WORDS + 1]
        elif kind in _CALLS:
            self._failed = False
        if isinstance(kind, str) and kind.lower().endswith("error"):
            self._failed, self._words, self._said = True, _words(update) or self._words, ""
        for meta in _metas(update):
            if isinstance(status := meta.get("threadStatus"), Mapping):
                self._stuck = status.get("type") == "systemError"
                self._failed = self._failed and status.get("type") != "active"
            error = None if kind in _CALLS else meta.get("error")
            if words := _words(error):
                self._words, self._said = words, ""
                self._failed = not _is_retried(error)

    def ended(self, response: Mapping[str, Any]) -> str | None:
        """Return the message of the error that ended the run with this answer; None if none did."""
        reason = response.get("stopReason")
        words = _words(response.get("error"))
        for meta in _metas(response):
            words = words or _words(meta.get("error"))
        unnamed = UNKNOWN
        if named := isinstance(reason, str) and any(word in reason.lower() for word in ("error", "fail")):
            unnamed = f"the run ended with {str(reason)[:MAX_WORDS]!r}"
        failed = words or named or (self._failed and not self._goes_on()) or self._stuck
        return (words or self._words or unnamed) if failed else None

    def _goes_on(self) -> bool:
        """Return whether the agent has written more since the error than the text of the error."""
        return self._said.strip()[:MAX_WORDS] not in ("", self._words, *self._words.split(": "))


def _metas(update: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the `_meta` of a message and the objects in it, one for each vendor."""
    meta = update.get("_meta")
    if isinstance(meta, Mapping):
        yield meta
        yield from (inner for inner in meta.values() if isinstance(inner, Mapping))


def _is_retried(error: object) -> bool:
    return isinstance(error, Mapping) and error.get("willRetry") is True


def _words(error: object) -> str:
    """Return the message of an error; empty if it is none."""
    if isinstance(error, str):
        return error.strip()[:MAX_WORDS]
    if not isinstance(error, Mapping):
        return ""
    texts = (error.get(name) for name in ("message", "details", "additionalDetails", "error"))
    words = [one.strip() for one in texts if isinstance(one, str) and one.strip()]
    return (": ".join(dict.fromkeys(words)) or _text(error).strip())[:MAX_WORDS]


def _text(update: Mapping[str, Any]) -> str:
    """Return the text in the content of a message; empty if there is none."""
    content = update.get("content")
    text = content.get("text") if isinstance(content, Mapping) else None
    return text if isinstance(text, str) else ""
