"""Receive the events that a backend emits for one Worker."""

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from runtimed.core.engine.mailbox import Mailbox
from runtimed.core.limits import Limits
from runtimed.core.ports import Clock, EventRefused
from runtimed.core.state import decisions
from runtimed.core.state.backend_answer import BackendAnswer
from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.runtime_items import RESERVED_KINDS
from runtimed.errors import RuntimedError, StoreFull
from runtimed.model.event import (
    Payload,
    Shutdown,
    Snapshot,
    SystemItem,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ToolCallArgsDelta,
    ToolCallDone,
    ToolResult,
    UserMessage,
)
from runtimed.model.execution import LossReason
from runtimed.model.permission import Permission, PermissionOutcome, PermissionResolution, Question, Ruling

RESERVED = (UserMessage, Snapshot, Shutdown)
"""Events that only the Runtime emits."""

CANCELLED = Ruling("cancelled")
MAX_TIMEOUT_S = 366 * 24 * 3600
"""The longest time that a permission request waits: a year."""

Growing = TextDelta | ThinkingDelta | ToolCallArgsDelta
Ending = TextDone | ThinkingDone | ToolCallDone | ToolResult


class OpenOutput:
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
        elif isinstance(payload, decisions.END_OF_RUN):
            self.characters = 0
            self._by_block.clear()

    def _grow(self, block: str, text: str) -> None:
        if text:
            self.characters += len(text)
            self._by_block[block] = self._by_block.get(block, 0) + len(text)


class WorkerEventSink:
    """The EventSink of one Worker, from a spawn until the program it started is gone.

    It makes the backend wait while more than `max_pending_events` wait to be committed. Once closed it drops events.
    `lost` is why the program is gone, or None.
    """

    __slots__ = ("_clock", "_closed", "_limits", "_mailbox", "_on_loss", "_open", "lost")

    def __init__(
        self, mailbox: Mailbox, limits: Limits, clock: Clock, on_loss: Callable[[Mailbox, LossReason], None]
    ) -> None:
        """Make the sink of a Worker; `on_loss` is called once the loss of its program is recorded."""
        self._mailbox = mailbox
        self._on_loss = on_loss
        self._limits = limits
        self._clock = clock
        self._open = OpenOutput()
        self._closed = False
        self.lost: LossReason | None = None

    async def emit(self, *payloads: Payload) -> None:
        for payload in payloads:
            self._check(payload)
        if self._closed:
            return
        self._mailbox.output(payloads)
        if self._mailbox.backlog > self._limits.max_pending_events:
            await self._mailbox.settled()

    async def ask(self, question: Question) -> Ruling:
        if self._closed:
            return CANCELLED
        timeout_s = min(max(question.timeout_s, 0.0), MAX_TIMEOUT_S)
        permission = self._permission(question, timeout_s)
        name = permission.request_id
        ruled: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
        self._mailbox.asked[name] = ruled
        try:
            await self._record(self._request(permission, question))
            await asyncio.wait({ruled}, timeout=timeout_s)
            if not ruled.done():
                await self._record(_resolve(name, "expired"))
                await asyncio.wait({ruled})
            return ruled.result()
        except RuntimedError:
            return CANCELLED
        finally:
            self._mailbox.asked.pop(name, None)
            if not ruled.done():
                self._mailbox.submit_nowait(_resolve(name, "cancelled"))

    async def lose(self, reason: LossReason, message: str) -> None:
        if not self._closed:
            self._closed = True
            self.lost = reason
            await self._record(partial(decisions.lose_program, reason=reason, message=message))
            self._on_loss(self._mailbox, reason)

    async def attach(self, answer: BackendAnswer) -> None:
        """Record the answer of the backend to the spawn, unless the program is lost by now.

        Raises:
            StoreFull: The disk is full; the answer is recorded once there is space.
        """
        if not self._closed:
            self._closed = answer.outcome != "accepted"
            await self._mailbox.submit(partial(decisions.attach, answer=answer), keep=True)

    async def _record(self, decision: Callable[[ChangeBuilder], object]) -> None:
        """Submit a decision that must not be lost: a full store only delays it."""
        with contextlib.suppress(StoreFull):
            await self._mailbox.submit(decision, keep=True)

    def _request(self, permission: Permission, question: Question) -> Callable[[ChangeBuilder], None]:
        most = self._limits.max_pending_permissions
        return partial(decisions.request_permission, permission=permission, question=question, most=most)

    def _permission(self, question: Question, timeout_s: float) -> Permission:
        expires = datetime.fromtimestamp(self._clock.unix_ms() // 1000 + math.floor(timeout_s), UTC)
        return Permission(
            request_id=secrets.token_hex(4),
            title=question.title,
            tool_call_id=question.tool_call_id,
            options=question.options,
            expires_at=expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            session_id=question.session_id,
            tool_kind=question.tool_kind,
            schema=question.schema,
        )

    def _check(self, payload: Payload) -> None:
        if isinstance(payload, RESERVED):
            raise EventRefused(f"{payload.event}: only the Runtime emits this event")
        match payload:
            case SystemItem({"kind": str(kind)}) if kind in RESERVED_KINDS:
                raise EventRefused(f"{kind}: only the Runtime emits items of this kind")
        self._open.take(payload)
        if self._open.characters > self._limits.max_open_text:
            raise EventRefused(
                "expected a text_done, thinking_done or tool_call_done after at most "
                f"{self._limits.max_open_text} characters (max_open_text)"
            )


def _resolve(request_id: str, outcome: PermissionOutcome) -> Callable[[ChangeBuilder], bool]:
    by = "deadline" if outcome == "expired" else "runtime"
    resolution = PermissionResolution(request_id, outcome, by)
    return partial(decisions.resolve_permission, resolution=resolution)


def _block(payload: Growing | Ending) -> str:
    if isinstance(payload, ToolCallArgsDelta | ToolCallDone | ToolResult):
        return f"tool call {payload.id}"
    return "text" if isinstance(payload, TextDelta | TextDone) else "thought"
