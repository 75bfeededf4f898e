"""Answer the permission requests of an agent."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from runtimed.core.ports import EventSink
from runtimed.execution.acp.elicitation import form_answer, form_question
from runtimed.execution.acp.inbox import Elicitation, Request
from runtimed.execution.acp.system_items import MAX_SESSION_ID, OtherSessions
from runtimed.execution.acp.tool_calls import MAX_TITLE, arguments_json
from runtimed.execution.acp.tool_content import as_text
from runtimed.execution.acp.update_translator import UpdateTranslator
from runtimed.execution.profile import Permissions, Profile
from runtimed.execution.tasks import begin, finish
from runtimed.model.permission import PermissionKind, PermissionOption, Question, Ruling

MAX_OPTIONS = 32
"""The most options of a request that are passed on."""

MAX_OPTION_ID = 1000
"""The most characters of the id of an option; an option with a longer id is left out, since ids can't be cut."""

MAX_TOLD_REASON = 200
"""The most characters of the reason for a denial in the summary of the tool call; the agent gets all of it."""

ALLOWING: tuple[PermissionKind, ...] = ("allow_once", "allow_always")
REJECTING: tuple[PermissionKind, ...] = ("reject_once", "reject_always")
OTHER = "other"
_KINDS: tuple[PermissionKind, ...] = get_args(PermissionKind)
_TOOL_KINDS = frozenset(
    {"read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", OTHER}
)


class PermissionRequests:
    """Owns the permission requests that wait for an answer. The tool call must have been emitted before."""

    def __init__(
        self, profile: Profile, sink: EventSink, translator: UpdateTranslator, others: OtherSessions
    ) -> None:
        self._profile = profile
        self._sink = sink
        self._translator = translator
        self._others = others
        self._waiting: set[asyncio.Task[None]] = set()

    def ask(self, request: Request, other: str | None = None) -> None:
        """Answer a request by the policy of the profile, or once somebody has ruled on it; returns at once.

        Args:
            request: The request of the agent.
            other: The session that asks, if that is not the Worker's own.
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

    def ask_form(self, request: Elicitation, other: str | None = None) -> None:
        """Answer a form in the same way. The policy that allows fills it with its defaults, if those are enough."""
        params = request.params
        call_id = None if other else self._translator.shown_as(params.get("toolCallId"))
        question = form_question(params, self._profile, call_id, other and other[:MAX_SESSION_ID])
        task = begin(self._wait_for_form(request, question))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def cancel(self) -> None:
        """Answer all waiting requests with `cancelled`."""
        await finish(*self._waiting)

    def _question(
        self, call: Mapping[str, Any], other: str | None, options: tuple[PermissionOption, ...], chosen: str | None
    ) -> Question:
        call_id, timeout_s = call.get("toolCallId"), self._profile.permission_timeout_s
        if other is not None:
            title = _title(call, self._others.title(other, call_id), arguments_json(call.get("rawInput")))
            kind = _tool_kind(call.get("kind"))
            return Question(title, None, options, timeout_s, chosen, other[:MAX_SESSION_ID], kind)
        title = _title(call, self._translator.title(call_id), self._translator.arguments(call_id))
        kind = _tool_kind(call.get("kind") or self._translator.kind(call_id))
        return Question(title, self._translator.shown_as(call_id), options, timeout_s, chosen, tool_kind=kind)

    async def _wait(self, request: Request, call_id: object, question: Question) -> None:
        ruling = Ruling("cancelled")
        try:
            ruling = await self._sink.ask(question)
        finally:
            self._answer(request, call_id, question.options, ruling)

    async def _wait_for_form(self, request: Elicitation, question: Question) -> None:
        ruling = Ruling("cancelled")
        try:
            ruling = await self._sink.ask(question)
        finally:
            if not request.answer.done():
                request.answer.set_result(form_answer(ruling))

    def _answer(self, request: Request, call_id: object, options: Iterable[PermissionOption], ruling: Ruling) -> None:
        """Answer a request; `call_id` is its tool call, if that is of the Worker's own session."""
        allowed = {option.option_id for option in options if option.kind in ALLOWING}
        chosen = ruling.option_id
        if ruling.outcome == "expired":
            chosen = first_of(options, REJECTING)
        if chosen not in allowed:
            self._translator.deny(call_id, _denial(ruling))
        if not request.answer.done():
            request.answer.set_result(_response(chosen, ruling.reason))


def _denial(ruling: Ruling) -> str:
    """Return the summary of a tool call that is not going to run."""
    whys = {"cancelled": "cancelled", "expired": "permission expired"}
    why = whys.get(ruling.outcome, "permission denied")
    return f"{why}: {ruling.reason[:MAX_TOLD_REASON]}" if ruling.reason else why


def _response(chosen: str | None, reason: str | None) -> dict[str, Any]:
    """Return the answer to a request. The protocol has no place for the reason but `_meta`."""
    outcome = {"outcome": "cancelled"} if chosen is None else {"outcome": "selected", "optionId": chosen}
    meta = {} if reason is None else {"_meta": {"reason": reason}}
    return {"outcome": {**outcome, **meta}, **meta}


def _tool_kind(kind: object) -> str:
    return kind if isinstance(kind, str) and kind in _TOOL_KINDS else OTHER


def first_of(options: Iterable[PermissionOption], kinds: Sequence[PermissionKind]) -> str | None:
    """Return the id of the first option of the first kind that is offered, or None."""
    offered = tuple(options)
    return next((option.option_id for kind in kinds for option in offered if option.kind == kind), None)


def ruled(policy: Permissions, options: Iterable[PermissionOption]) -> str | None:
    """Return the option that a policy chooses; None if somebody must be asked, or no option fits."""
    if policy == "ask":
        return None
    return first_of(options, ALLOWING if policy == "allow" else REJECTING)


def _options(given: object) -> Iterator[PermissionOption]:
    """Yield the valid options."""
    for option in given[:MAX_OPTIONS] if isinstance(given, list) else ():
        if not isinstance(option, dict):
            continue
        option_id = option.get("optionId")
        kind = next((known for known in _KINDS if known == option.get("kind")), None)
        if isinstance(option_id, str) and len(option_id) <= MAX_OPTION_ID and kind is not None:
            yield PermissionOption(option_id, as_text(option.get("name"), option_id)[:MAX_TITLE], kind)


def _title(call: Mapping[str, Any], known: str | None, arguments: str) -> str:
    """Return the title of a request: its own, or else that of its tool call.

    A title of one word is only the name of a tool, so the arguments are added.
    """
    titles = (call.get("title"), known, call.get("kind"))
    title = next((one.strip() for one in titles if isinstance(one, str) and one.strip()), "tool")
    return (title if len(title.split()) > 1 else f"{title} {arguments}".rstrip())[:MAX_TITLE]
