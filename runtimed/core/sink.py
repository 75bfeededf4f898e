"""Where a backend's words enter the Runtime."""

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from runtimed.core import decide
from runtimed.core.activity import INPUT_STARTED, PERMISSION_REQUEST, PERMISSION_RESOLVED, SYSTEM_INPUT
from runtimed.core.draft import Draft
from runtimed.core.lane import Lane
from runtimed.core.limits import Limits
from runtimed.core.open_text import OpenText
from runtimed.core.ports import Answer, Clock, EventRefused
from runtimed.errors import RuntimedError, StoreFull
from runtimed.model.event import Payload, Shutdown, Snapshot, SystemItem, UserMessage
from runtimed.model.execution import LossReason
from runtimed.model.permission import Permission, PermissionOutcome, PermissionResolution, Question, Ruling

RESERVED = (UserMessage, Snapshot, Shutdown)
RESERVED_ITEMS = frozenset({SYSTEM_INPUT, INPUT_STARTED, PERMISSION_REQUEST, PERMISSION_RESOLVED})
CANCELLED = Ruling("cancelled")
MAX_TIMEOUT_S = 366 * 24 * 3600
"""The longest that a question waits, whatever its own time: a year."""


class LaneSink:
    """The EventSink of one Worker, from a spawn to the end of what was spawned.

    It makes the backend wait while more events wait for the store than may. Once it is closed, it drops what comes.
    `on_loss` is called behind the loss of what was spawned.
    """

    __slots__ = ("_clock", "_closed", "_lane", "_limits", "_on_loss", "_open", "lost")

    def __init__(self, lane: Lane, limits: Limits, clock: Clock, on_loss: Callable[[Lane, LossReason], None]) -> None:
        self._lane = lane
        self._on_loss = on_loss
        self._limits = limits
        self._clock = clock
        self._open = OpenText()
        self._closed = False
        self.lost: LossReason | None = None

    async def emit(self, *payloads: Payload) -> None:
        """See EventSink."""
        for payload in payloads:
            self._check(payload)
        if self._closed:
            return
        self._lane.output(payloads)
        if self._lane.backlog > self._limits.max_pending_events:
            await self._lane.settled()

    async def ask(self, question: Question) -> Ruling:
        """See EventSink."""
        if self._closed:
            return CANCELLED
        timeout_s = min(max(question.timeout_s, 0.0), MAX_TIMEOUT_S)
        permission = self._permission(question, timeout_s)
        name = permission.request_id
        ruled: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
        self._lane.asked[name] = ruled
        try:
            await self._keep(self._request(permission, question.ruled))
            await asyncio.wait({ruled}, timeout=timeout_s)
            if not ruled.done():
                await self._keep(_resolve(name, "expired"))
                await asyncio.wait({ruled})
            return ruled.result()
        except RuntimedError:
            return CANCELLED
        finally:
            self._lane.asked.pop(name, None)
            if not ruled.done():
                self._lane.leave(_resolve(name, "cancelled"))

    async def lose(self, reason: LossReason, message: str) -> None:
        """See EventSink."""
        if not self._closed:
            self._closed = True
            self.lost = reason
            await self._keep(partial(decide.lose_program, reason=reason, message=message))
            self._on_loss(self._lane, reason)

    async def attach(self, answer: Answer) -> None:
        """Store what the backend said to the spawn, unless what it spawned is lost by now.

        Raises StoreFull where that is stored later.
        """
        if not self._closed:
            self._closed = answer.outcome != "accepted"
            await self._lane.propose(partial(decide.attach, answer=answer), keep=True)

    async def _keep(self, decision: Callable[[Draft], object]) -> None:
        """Have it stored; by a full store, later."""
        with contextlib.suppress(StoreFull):
            await self._lane.propose(decision, keep=True)

    def _request(self, permission: Permission, ruled: str | None) -> Callable[[Draft], None]:
        most = self._limits.max_pending_permissions
        return partial(decide.request_permission, permission=permission, ruled=ruled, most=most)

    def _permission(self, question: Question, timeout_s: float) -> Permission:
        expires = datetime.fromtimestamp(self._clock.unix_ms() // 1000 + math.floor(timeout_s), UTC)
        return Permission(
            request_id=secrets.token_hex(4),
            title=question.title,
            tool_call_id=question.tool_call_id,
            options=question.options,
            expires_at=expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            session_id=question.session_id,
        )

    def _check(self, payload: Payload) -> None:
        if isinstance(payload, RESERVED):
            raise EventRefused(f"{payload.event} is for the Runtime to say")
        match payload:
            case SystemItem({"kind": str(kind)}) if kind in RESERVED_ITEMS:
                raise EventRefused(f"an item of kind {kind} is for the Runtime to say")
        self._open.take(payload)
        if self._open.characters > self._limits.max_open_text:
            raise EventRefused(
                "expected a text_done, thinking_done or tool_call_done at the latest behind "
                f"{self._limits.max_open_text} characters (max_open_text)"
            )


def _resolve(request_id: str, outcome: PermissionOutcome) -> Callable[[Draft], bool]:
    resolution = PermissionResolution(request_id, outcome, "runtime")
    return partial(decide.resolve_permission, resolution=resolution)
