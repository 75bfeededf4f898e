"""The permissions that an agent asks for, and what it is answered."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from runtimed.core.ports import EventSink
from runtimed.execution.acp.calls import MAX_TITLE, told_arguments
from runtimed.execution.acp.content import told_text
from runtimed.execution.acp.inbox import Request
from runtimed.execution.acp.items import MAX_SESSION_ID
from runtimed.execution.acp.mapping import Narration
from runtimed.execution.acp.others import OtherSessions
from runtimed.execution.policy import ALLOWING, REJECTING, first_of, ruled
from runtimed.execution.profile import Profile
from runtimed.execution.tasks import begin, finish
from runtimed.model.permission import PermissionKind, PermissionOption, Question, Ruling

MAX_OPTIONS = 32
"""Options of a question, and characters of its title and of the names of its options, that are told on."""

MAX_OPTION_ID = 1000
"""Characters of the id of an option; one with a longer id is left out, for its id can't be cut."""

CANCELLED = {"outcome": {"outcome": "cancelled"}}
_KINDS: tuple[PermissionKind, ...] = get_args(PermissionKind)


class Questions:
    """Owns the questions that wait for somebody's answer. The tool call that is meant must have been shown."""

    def __init__(self, profile: Profile, sink: EventSink, narration: Narration, others: OtherSessions) -> None:
        self._profile = profile
        self._sink = sink
        self._narration = narration
        self._others = others
        self._waiting: set[asyncio.Task[None]] = set()

    def ask(self, request: Request, other: str | None = None) -> None:
        """See to it that the request is answered: by the profile's policy, or when somebody has ruled on it.

        `other` is the session that asks, where that is not the Worker's own.
        """
        call = request.params.get("toolCall")
        call = call if isinstance(call, dict) else {}
        call_id = None if other else call.get("toolCallId")
        options = tuple(_options(request.params.get("options")))
        chosen = ruled(self._profile.permissions, options)
        if not options or (chosen is None and self._profile.permissions != "ask"):
            self._answer(request, call_id, options, Ruling("cancelled"))
            return
        task = begin(self._wait(request, call_id, self._question(call, other, options, chosen)))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def cancel(self) -> None:
        """Answer all that wait with `cancelled`."""
        await finish(*self._waiting)

    def _question(
        self, call: Mapping[str, Any], other: str | None, options: tuple[PermissionOption, ...], chosen: str | None
    ) -> Question:
        call_id, timeout_s = call.get("toolCallId"), self._profile.permission_timeout_s
        if other is not None:
            title = _title(call, self._others.title(other, call_id), told_arguments(call.get("rawInput")))
            return Question(title, None, options, timeout_s, chosen, other[:MAX_SESSION_ID])
        title = _title(call, self._narration.title(call_id), self._narration.arguments(call_id))
        return Question(title, self._narration.shown_as(call_id), options, timeout_s, chosen)

    async def _wait(self, request: Request, call_id: object, question: Question) -> None:
        ruling = Ruling("cancelled")
        try:
            ruling = await self._sink.ask(question)
        finally:
            self._answer(request, call_id, question.options, ruling)

    def _answer(self, request: Request, call_id: object, options: Iterable[PermissionOption], ruling: Ruling) -> None:
        """Answer the request; `call_id` is the tool call of the Worker's own session that is meant."""
        allowed = {option.option_id for option in options if option.kind in ALLOWING}
        chosen = ruling.option_id
        if ruling.outcome == "expired":
            chosen = first_of(options, REJECTING)
        if chosen not in allowed:
            why = "cancelled" if ruling.outcome == "cancelled" else "permission denied"
            self._narration.deny(call_id, "permission expired" if ruling.outcome == "expired" else why)
        if not request.answer.done():
            selected = {"outcome": {"outcome": "selected", "optionId": chosen}}
            request.answer.set_result(CANCELLED if chosen is None else selected)


def _options(given: object) -> Iterator[PermissionOption]:
    """Those that are as the protocol has them."""
    for option in given[:MAX_OPTIONS] if isinstance(given, list) else ():
        if not isinstance(option, dict):
            continue
        option_id = option.get("optionId")
        kind = next((known for known in _KINDS if known == option.get("kind")), None)
        if isinstance(option_id, str) and len(option_id) <= MAX_OPTION_ID and kind is not None:
            yield PermissionOption(option_id, told_text(option.get("name"), option_id)[:MAX_TITLE], kind)


def _title(call: Mapping[str, Any], known: str | None, arguments: str) -> str:
    """What is asked for: in the words of the request, or else those that the tool call was told with.

    One word is the name of a tool: nobody can decide by that, so the arguments follow.
    """
    told = (call.get("title"), known, call.get("kind"))
    title = next((one.strip() for one in told if isinstance(one, str) and one.strip()), "tool")
    return (title if len(title.split()) > 1 else f"{title} {arguments}".rstrip())[:MAX_TITLE]
