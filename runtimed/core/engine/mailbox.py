"""The mailbox of a Worker: it takes every change through decide, commit, apply, publish; one Change at a time."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs

from runtimed.core.engine.command import Command, fail_all, succeed_all
from runtimed.core.engine.pacing import OutputPace
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, DispatchOffer, EncodedEvent, Worker
from runtimed.core.state.change_builder import ChangeBuilder, MissingEnd
from runtimed.core.state.decisions import END_OF_RUN, add_run_end, disconnected, do_nothing, record_output
from runtimed.errors import RuntimedError, SerializeFailed, StoreFull, WorkerNotFound
from runtimed.model.event import Payload
from runtimed.model.execution import RestartPolicy
from runtimed.model.interaction import AttachmentForm
from runtimed.model.permission import Ruling
from runtimed.model.profile import Sandbox

STORE_RETRY_S = 1.0
"""How long a command that must not be lost waits before it is offered again to a full store."""

MAX_APART = 8
"""Texts of up to this many commands in one Change stay separate events: one slow commit joins no tokens."""

RUN_END_S = 1.0
"""How long a backend may emit nothing after an `error` that ended a run, before the Runtime adds the `run_end`."""

log = logging.getLogger(__name__)


class Mailbox:
    """The queue of commands of one Worker, and the Worker's applied state.

    One Change of a Worker is in flight at a time. Commands that arrive meanwhile are decided together as the next
    Change: a decision always sees applied state, and a burst of events becomes one Change. Output that arrives after
    the rest of the last Change is decided at once. During a rest it is collected, unless another command is queued,
    it ends a run, or a caller waits for it.

    Attributes:
        worker: The Worker's row as it is stored; shown as unconnected once `disconnect` was called.
        activity: What the Worker is doing.
        backlog: How many output events wait to be committed.
        retained_after: The sequence after which events can be read. It rises before older rows are removed.
        deleted: The Worker is deleted. Commands fail with WorkerNotFound.
        asked: The permission requests that await a ruling, by request id.
        offer: The offer of a queued input to the backend that is pending, or None.
        dispatch_paused: Make no offers.
        restart: What to do when the backend loses what it spawned last.
        attachments: The forms of attachments that the backend takes, as it said when it spawned the Worker last.
        sandbox: What confines the programs that the backend spawned last, if it runs any.
    """

    __slots__ = (
        "_alone",
        "_disconnected",
        "_in_flight",
        "_missing_end",
        "_on_offer",
        "_pace",
        "_queue",
        "_run_end_timer",
        "_says_starts",
        "_sequencer",
        "_timer",
        "_timer_at",
        "_urgent",
        "activity",
        "asked",
        "attachments",
        "backlog",
        "deleted",
        "dispatch_paused",
        "offer",
        "profile",
        "restart",
        "retained_after",
        "sandbox",
        "worker",
    )

    def __init__(
        self, sequencer: Sequencer, worker: Worker, activity: Activity, on_offer: Callable[["Mailbox"], None]
    ) -> None:
        """Make the mailbox of a Worker.

        Args:
            sequencer: Numbers and commits its Changes.
            worker: The Worker's row as it is stored.
            activity: What the Worker is doing.
            on_offer: Called when a queued input is to be dispatched to the backend.
        """
        self.worker = worker
        self.activity = activity
        self.backlog = 0
        self.retained_after = worker.retained_after
        self.deleted = False
        self.asked: dict[str, asyncio.Future[Ruling]] = {}
        self.offer: DispatchOffer | None = None
        self.dispatch_paused = False
        self.restart: RestartPolicy = "never"
        self.attachments: frozenset[AttachmentForm] = frozenset()
        self.sandbox: Sandbox | None = None
        self.profile: str | None = None
        self._on_offer = on_offer
        self._sequencer = sequencer
        self._queue: list[Command] = []
        self._in_flight = False
        self._alone = 0
        self._pace = OutputPace()
        self._disconnected = False
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._missing_end: MissingEnd = "awaited" if worker.awaits_run_end else "none"
        self._says_starts = False
        self._run_end_timer: asyncio.TimerHandle | None = None

    def disconnect(self) -> None:
        """Show the Worker as unconnected at once, whatever becomes of the decision that records it."""
        self._disconnected = True
        self.offer = None
        self._show(self.worker)

    def reconnect(self) -> None:
        """Let decisions show the Worker as connected again."""
        self._disconnected = False

    def _show(self, worker: Worker) -> None:
        if self._disconnected and worker.status == "running":
            worker = attrs.evolve(worker, execution=disconnected(worker.execution))
        self.worker = worker

    async def submit(
        self,
        decide: Callable[[ChangeBuilder], Any],
        *,
        committed: Callable[[], None] | None = None,
        abandoned: Callable[[], None] | None = None,
        keep: bool = False,
    ) -> Any:
        """Take a decision, commit, apply and publish it, and return its answer.

        Cancelling the caller undoes nothing.

        Args:
            decide: The decision; its return value is the answer.
            committed: Called once the decision is committed.
            abandoned: Called if nothing of the decision will be stored.
            keep: Retry while the store is full, although the caller gets StoreFull at once.

        Raises:
            WorkerNotFound: The Worker is deleted.
            StoreFull: The disk is full.
            RuntimedError: Whatever `decide` raises.
        """
        answered = self._sequencer.loop.create_future()
        self._enqueue(Command(decide, answered, committed, abandoned, keep))
        return await answered

    def submit_nowait(self, decide: Callable[[ChangeBuilder], Any]) -> None:
        """Take a decision without waiting for it. While the store is full it is retried."""
        self._enqueue(Command(decide, keep=True))

    def add_run_end(self) -> None:
        """Add the `run_end` that is missing after an `error` now, instead of after RUN_END_S."""
        self.submit_nowait(add_run_end)

    @property
    def is_settled(self) -> bool:
        """Whether all output is committed and no `run_end` is missing."""
        return not (self._queue or self._in_flight or self._missing_end == "awaited")

    def output(self, payloads: Sequence[Payload]) -> None:
        """Queue events of the backend. While the store is full they are retried."""
        patient = not any(isinstance(payload, END_OF_RUN) for payload in payloads)
        decide = partial(_record_output, payloads)
        self._enqueue(Command(decide, keep=True, weight=len(payloads), patient=patient))

    def settled(self) -> asyncio.Future[None]:
        """Return a future that is done once all output queued so far is committed or dropped."""
        stored = self._sequencer.loop.create_future()
        settle = partial(_settle, stored)
        self._enqueue(Command(do_nothing, None, settle, settle, keep=True))
        return stored

    def _enqueue(self, command: Command) -> None:
        self._queue.append(command)
        self.backlog += command.weight
        self._urgent = self._urgent or not command.patient
        self._advance()

    def _advance(self) -> None:
        while self._queue and not self._in_flight and not self._is_resting():
            began = time.thread_time() if self.backlog else None
            commands = self._take()
            if began is not None:
                self._pace.begin_rest(self._sequencer.loop.time(), sum(command.patient for command in commands))
            if self.deleted:
                fail_all(commands, WorkerNotFound(self.worker.worker_id))
                continue
            builder = self._builder()
            apart = len(commands) <= MAX_APART
            decided = [command for command in commands if command.apply_to(builder, apart=apart)]
            change = builder.change()
            if change is None:
                self._notify(builder)
                succeed_all(decided)
            else:
                self._commit(change, builder, decided, began)

    def _builder(self) -> ChangeBuilder:
        return ChangeBuilder(
            self.worker,
            self.activity,
            self._sequencer,
            self.offer,
            dispatch_paused=self.dispatch_paused,
            missing_end=self._missing_end,
            says_starts=self._says_starts,
        )

    def _is_resting(self) -> bool:
        """Return whether only output is queued during a rest. Then a timer ends the rest."""
        if self._urgent or self._sequencer.loop.time() >= self._pace.rests_until:
            return False
        if self._timer is None or self._timer_at > self._pace.rests_until:
            self._advance_at(self._pace.rests_until)
        return True

    def _advance_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._sequencer.loop.call_at(time_s, self._resume), time_s

    def _resume(self) -> None:
        self._timer = None
        self._advance()

    def _take(self) -> list[Command]:
        """Take the commands of the next Change: all that are queued, or one alone after an encoding failed."""
        commands, self._queue = self._queue, []
        if self._alone:
            self._alone -= 1
            self._queue = commands[1:]
            commands = commands[:1]
        self._urgent = bool(self._queue)
        self.backlog = self.backlog - commands[0].weight if self._queue else 0
        return commands

    def _put_back(self, commands: list[Command]) -> None:
        self._queue[:0] = commands
        self._urgent = self._urgent or bool(commands)
        self.backlog += sum(command.weight for command in commands)

    def _commit(self, change: Change, builder: ChangeBuilder, decided: list[Command], began: float | None) -> None:
        try:
            committed = self._sequencer.commit(change)
        except SerializeFailed as error:
            self._isolate(decided, error)
        except RuntimedError as error:
            fail_all(decided, error)
        else:
            self._in_flight = True
            cost_s = None if began is None else time.thread_time() - began
            committed.add_done_callback(partial(self._committed, builder, decided, cost_s))

    def _isolate(self, decided: list[Command], error: SerializeFailed) -> None:
        """Find the command that cannot be encoded: decide each alone, and drop the one that fails."""
        if len(decided) == 1:
            log.error("dropped an event that cannot be encoded", extra={"worker_id": self.worker.worker_id})
            fail_all(decided, error)
        else:
            self._put_back(decided)
            self._alone = len(decided)

    def _committed(
        self,
        builder: ChangeBuilder,
        decided: list[Command],
        cost_s: float | None,
        committed: asyncio.Future[Sequence[EncodedEvent]],
    ) -> None:
        self._in_flight = False
        began = None if cost_s is None else time.thread_time()
        error = self._sequencer.failure_of(committed)
        if error is None:
            self._apply(builder)
            self._sequencer.publish(self.worker.worker_id, committed.result())
            self._notify(builder)
            succeed_all(decided)
            if cost_s is not None and began is not None:
                self._pace.measured(cost_s + self._sequencer.commit_cost_s + time.thread_time() - began)
        elif isinstance(error, StoreFull):
            self._wait_for_room(decided, error)
            return
        else:
            fail_all(decided, error)
        self._advance()

    def _apply(self, builder: ChangeBuilder) -> None:
        self._show(builder.worker)
        self.activity, self.deleted = builder.activity, builder.deleted
        self._says_starts = builder.says_starts
        if self._missing_end != "none" or builder.missing_end != "none":
            self._await_run_end(builder.missing_end)

    def _await_run_end(self, missing: MissingEnd) -> None:
        self._missing_end = missing
        if self._run_end_timer is not None:
            self._run_end_timer.cancel()
            self._run_end_timer = None
        if missing == "awaited":
            self._run_end_timer = self._sequencer.loop.call_later(RUN_END_S, self.add_run_end)

    def _notify(self, builder: ChangeBuilder) -> None:
        """Hand a new offer to `on_offer`, and rulings to those who asked."""
        is_new, self.offer = builder.offer is not self.offer and builder.offer is not None, builder.offer
        if is_new and not self._disconnected:
            self._on_offer(self)
        for request_id, ruling in builder.rulings.items():
            asked = self.asked.pop(request_id, None)
            if asked is not None and not asked.done():
                asked.set_result(ruling)

    def _wait_for_room(self, decided: list[Command], error: StoreFull) -> None:
        """Fail the commands that need not be kept, and offer the others again after STORE_RETRY_S."""
        kept = [command for command in decided if command.keep]
        fail_all([command for command in decided if not command.keep], error)
        for command in kept:
            command.report(error)
        others_are_urgent = self._urgent
        self._put_back(kept)
        now = self._sequencer.loop.time()
        if kept and not others_are_urgent:
            self._urgent, self._pace.rests_until = False, now + STORE_RETRY_S
        self._advance_at(now + STORE_RETRY_S if kept else now)


def _record_output(payloads: Sequence[Payload], builder: ChangeBuilder) -> None:
    record_output(builder, payloads)


def _settle(stored: asyncio.Future[None]) -> None:
    if not stored.done():
        stored.set_result(None)
