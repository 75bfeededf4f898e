"""The error of a provider that ended a run, where the agent tells it beside the answer to the prompt."""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_WORDS = 500
"""Characters that are kept of an error."""

UNKNOWN = "the agent reported an error of its model provider"
_PROSE = ("agent_message_chunk", "agent_thought_chunk")
_CALLS = ("tool_call", "tool_call_update")


class Failure:
    """Watches one run. An error that the agent got over counts no more: it went on, or says that it is well again.

    Recognized are an update of a kind that ends in `error`; in `_meta`, or an object directly in it, an `error` or a
    `threadStatus` of `systemError`; and in the answer an `error`, or a stop reason that speaks of one. An `error` in
    the `_meta` of a tool call is one of the tool.
    """

    def __init__(self) -> None:
        self._words = ""
        self._said = ""
        self._failed = False
        self._stuck = False

    def note(self, told: Mapping[str, Any]) -> None:
        """Take a session update of the run."""
        kind = told.get("sessionUpdate")
        if self._stuck and kind == "agent_message_chunk":  # what it says to the user then is the error
            self._words = self._words or _text(told).strip()[:MAX_WORDS]
        if kind in _PROSE:
            self._said = (self._said + _text(told))[: MAX_WORDS + 1]
        elif kind in _CALLS:
            self._failed = False
        if isinstance(kind, str) and kind.lower().endswith("error"):
            self._failed, self._words, self._said = True, _words(told) or self._words, ""
        for meta in _metas(told):
            if isinstance(status := meta.get("threadStatus"), Mapping):
                self._stuck = status.get("type") == "systemError"
                self._failed = self._failed and status.get("type") != "active"
            error = None if kind in _CALLS else meta.get("error")
            if words := _words(error):
                self._words, self._said = words, ""
                self._failed = not _is_retried(error)

    def ended(self, response: Mapping[str, Any]) -> str | None:
        """What the error was, where one ended the run that was answered so; None where none did."""
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
        """Whether what was said since the error is more than its words, said to the user as well."""
        return self._said.strip()[:MAX_WORDS] not in ("", self._words, *self._words.split(": "))


def _metas(told: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The `_meta` of a message, and the objects directly in it, one for each vendor."""
    meta = told.get("_meta")
    if isinstance(meta, Mapping):
        yield meta
        yield from (inner for inner in meta.values() if isinstance(inner, Mapping))


def _is_retried(error: object) -> bool:
    return isinstance(error, Mapping) and error.get("willRetry") is True


def _words(error: object) -> str:
    """What an error says; empty where it is none."""
    if isinstance(error, str):
        return error.strip()[:MAX_WORDS]
    if not isinstance(error, Mapping):
        return ""
    told = (error.get(name) for name in ("message", "details", "additionalDetails", "error"))
    words = [one.strip() for one in told if isinstance(one, str) and one.strip()]
    return (": ".join(dict.fromkeys(words)) or _text(error).strip())[:MAX_WORDS]


def _text(told: Mapping[str, Any]) -> str:
    """The text in the content of a message; empty where there is none."""
    content = told.get("content")
    text = content.get("text") if isinstance(content, Mapping) else None
    return text if isinstance(text, str) else ""
