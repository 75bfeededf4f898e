"""The way of every change: decide, commit, apply, publish; one Change of a Worker at a time."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs

from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, DispatchOffer, EncodedEvent, Worker
from runtimed.core.state.change_builder import ChangeBuilder, MissingEnd
from runtimed.core.state.decisions import END_OF_RUN, add_run_end, disconnected, do_nothing, record_output
from runtimed.errors import Internal, RuntimedError, SerializeFailed, StoreFull, WorkerNotFound
from runtimed.model.event import Payload
from runtimed.model.execution import RestartPolicy
from runtimed.model.permission import Ruling

STORE_RETRY_S = 1.0
"""How long output waits before it is offered again to a store that was full."""

REST = 3
"""A Change with output begins a rest: REST times the processor time that a Change takes, times the square of the
pieces of output in it.

A slow stream is never collected, as its next piece comes after the rest. In a fast one rests collect more and more,
until the rests are MAX_REST_S long. A stream that stumbled once soon has short rests again.
"""

MAX_REST_S = 0.02
"""The longest rest: a fast stream of events becomes fifty Changes a second, and not one for each event."""

USUAL_COST_S = 0.0002
"""The processor time that a Change is taken to need before one was measured."""

MAX_RISE = 1.5
"""A Change that took more counts as so many times the last one: a garbage collection may have been part of it."""

MAX_APART = 8
"""Text of so many decisions in one Change stays apart: a disk that is slow for once joins no tokens."""

RUN_END_S = 1.0
"""How long a backend may say nothing behind an `error` that ended a run, until the `run_end` is added."""

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Command:
    """A decision that waits for its turn.

    `decide` gets the Draft; what it returns answers `answered`, if any, once the Change is committed. `committed` and
    `abandoned` are called whatever became of the caller. With `keep` a full store only delays it: the caller is told
    StoreFull, and the decision is taken as soon as there is room. One that is `patient` waits for others.
    """

    decide: Callable[[ChangeBuilder], Any]
    answered: asyncio.Future[Any] | None = None
    committed: Callable[[], None] | None = None
    abandoned: Callable[[], None] | None = None
    keep: bool = False
    weight: int = 0
    patient: bool = False
    _answer: Any = None

    def attempt(self, builder: ChangeBuilder, *, apart: bool) -> bool:
        """Take the decision; one that fails is answered at once and leaves the Draft as it was.

        Where it is to stay `apart`, its text is not joined with that of the decision before.
        """
        if apart and self.weight:
            builder.part()
        try:
            self._answer = builder.attempt(self.decide)
        except RuntimedError as error:
            self.fail(error)
        except Exception:
            log.exception("a decision failed")
            self.fail(Internal())
        else:
            return True
        return False

    def succeed(self) -> None:
        """The Change is committed, applied and published."""
        _call(self.committed)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(self._answer)

    def fail(self, error: BaseException) -> None:
        """Nothing of it was stored, nor will be."""
        _call(self.abandoned)
        self.delay(error)

    def delay(self, error: BaseException) -> None:
        """Nothing of it was stored yet."""
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(error)


class Mailbox:
    """One Worker in the catalog, and the changes that it waits for.

    What arrives while a Change is in flight is decided together as the next one, so that a decision always sees
    applied state, and a burst of events becomes one Change by itself. `floor` is where reading may begin at the
    earliest; it moves on before what is behind it is trimmed. Nothing is decided for a Worker that is `deleted`.
    Whoever waits for a ruling on a permission has a future in `asked`. `turn` is the offer of an input that waits
    to the backend; `on_turn` is called where there is a new one, and there is none while `still` is set. `restart` is
    what follows the loss of what the backend spawned last.

    Output that comes after a rest is decided at once. During a rest it is collected, unless something else is to be
    decided, it ends a run, or somebody waits for it.
    """

    __slots__ = (
        "_alone",
        "_cost_s",
        "_disconnected",
        "_in_flight",
        "_missing_end",
        "_on_offer",
        "_pieces",
        "_rested",
        "_run_end_timer",
        "_says_starts",
        "_sequencer",
        "_timer",
        "_timer_at",
        "_urgent",
        "_waiting",
        "activity",
        "asked",
        "backlog",
        "deleted",
        "dispatch_paused",
        "offer",
        "restart",
        "retained_after",
        "worker",
    )

    def __init__(
        self, sequencer: Sequencer, worker: Worker, activity: Activity, on_offer: Callable[["Mailbox"], None]
    ) -> None:
        self.worker = worker
        self.activity = activity
        self.backlog = 0
        self.retained_after = worker.retained_after
        self.deleted = False
        self.asked: dict[str, asyncio.Future[Ruling]] = {}
        self.offer: DispatchOffer | None = None
        self.dispatch_paused = False
        self.restart: RestartPolicy = "never"
        self._on_offer = on_offer
        self._sequencer = sequencer
        self._waiting: list[Command] = []
        self._in_flight = False
        self._alone = 0
        self._cost_s = USUAL_COST_S
        self._pieces = 0
        self._disconnected = False
        self._rested = 0.0
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._missing_end: MissingEnd = "awaited" if worker.awaits_run_end else "none"
        self._says_starts = False
        self._run_end_timer: asyncio.TimerHandle | None = None

    def disconnect(self) -> None:
        """What ran this Worker is gone. That is known at once, whatever becomes of the decision that tells of it."""
        self._disconnected = True
        self.offer = None
        self._show(self.worker)

    def reconnect(self) -> None:
        """From now on a decision may tell that something runs this Worker again."""
        self._disconnected = False

    def _show(self, worker: Worker) -> None:
        """Have the Worker seen as it is stored, but not as connected where that was decided before it was over."""
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
        """Take a decision through all four steps and return its answer. A caller that is cancelled undoes nothing."""
        answered = self._sequencer.loop.create_future()
        self._enqueue(Command(decide, answered, committed, abandoned, keep))
        return await answered

    def submit_nowait(self, decide: Callable[[ChangeBuilder], Any]) -> None:
        """Take a decision sooner or later, with nobody waiting for it."""
        self._enqueue(Command(decide, keep=True))

    def add_run_end(self) -> None:
        """Add the `run_end` that is missing behind an `error`, if there is one, without waiting for it any longer."""
        self.submit_nowait(add_run_end)

    @property
    def is_settled(self) -> bool:
        """Whether all output that was taken is committed, and no `run_end` is missing."""
        return not (self._waiting or self._in_flight or self._missing_end == "awaited")

    def output(self, payloads: Sequence[Payload]) -> None:
        """Take events of the backend; they are stored sooner or later."""
        patient = not any(isinstance(payload, END_OF_RUN) for payload in payloads)
        self._enqueue(Command(partial(_output, payloads), keep=True, weight=len(payloads), patient=patient))

    def settled(self) -> asyncio.Future[None]:
        """Done once all output that was taken is committed, or dropped for good."""
        stored = self._sequencer.loop.create_future()
        settled = partial(_settle, stored)
        self._enqueue(Command(do_nothing, None, settled, settled, keep=True))
        return stored

    def _enqueue(self, command: Command) -> None:
        self._waiting.append(command)
        self.backlog += command.weight
        self._urgent = self._urgent or not command.patient
        self._advance()

    def _advance(self) -> None:
        while self._waiting and not self._in_flight and not self._rests():
            began = time.thread_time() if self.backlog else None
            taken = self._take()
            if began is not None:
                self._rest(sum(command.patient for command in taken))
            if self.deleted:
                _fail(taken, WorkerNotFound(self.worker.worker_id))
                continue
            builder = ChangeBuilder(
                self.worker,
                self.activity,
                self._sequencer,
                self.offer,
                dispatch_paused=self.dispatch_paused,
                missing_end=self._missing_end,
                says_starts=self._says_starts,
            )
            apart = len(taken) <= MAX_APART
            decided = [command for command in taken if command.attempt(builder, apart=apart)]
            change = builder.change()
            if change is None:
                self._tell(builder)
                _succeed(decided)
            else:
                self._commit(change, builder, decided, began)

    def _rests(self) -> bool:
        """Whether only output waits, and the rest is not over."""
        if self._urgent or self._sequencer.loop.time() >= self._rested:
            return False
        if self._timer is None or self._timer_at > self._rested:
            self._wait_until(self._rested)
        return True

    def _rest(self, pieces: int) -> None:
        """Begin the rest of a Change with so many pieces of output. The time of its commit is part of the rest.

        Half of the pieces of the Change before count at least: a fast stream that pauses is fast again.
        """
        if pieces:
            self._pieces = max(pieces, self._pieces // 2)
            self._rested = self._sequencer.loop.time() + min(REST * self._cost_s * self._pieces**2, MAX_REST_S)

    def _resume(self) -> None:
        self._timer = None
        self._advance()

    def _wait_until(self, time_s: float) -> None:
        """Advance at this time of the loop, and not when it was to be before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._sequencer.loop.call_at(time_s, self._resume), time_s

    def _take(self) -> list[Command]:
        taken, self._waiting = self._waiting, []
        if self._alone:
            self._alone -= 1
            self._waiting = taken[1:]
            taken = taken[:1]
        self._urgent = bool(self._waiting)
        self.backlog = self.backlog - taken[0].weight if self._waiting else 0
        return taken

    def _put_back(self, commands: list[Command]) -> None:
        self._waiting[:0] = commands
        self._urgent = self._urgent or bool(commands)
        self.backlog += sum(command.weight for command in commands)

    def _commit(self, change: Change, builder: ChangeBuilder, decided: list[Command], began: float | None) -> None:
        try:
            committed = self._sequencer.commit(change)
        except SerializeFailed as error:
            self._isolate(decided, error)
        except RuntimedError as error:
            _fail(decided, error)
        else:
            self._in_flight = True
            cost_s = None if began is None else time.thread_time() - began
            committed.add_done_callback(partial(self._committed, builder, decided, cost_s))

    def _isolate(self, decided: list[Command], error: SerializeFailed) -> None:
        if len(decided) == 1:
            log.error("%s: an event was dropped, it can't be encoded", self.worker.worker_id)
            _fail(decided, error)
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
        error = self._sequencer.failed(committed)
        if error is None:
            self._show(builder.worker)
            self.activity, self.deleted = builder.activity, builder.deleted
            self._says_starts = builder.says_starts
            if self._missing_end != "none" or builder.missing_end != "none":
                self._await_run_end(builder.missing_end)
            self._sequencer.publish(self.worker.worker_id, committed.result())
            self._tell(builder)
            _succeed(decided)
            if cost_s is not None and began is not None:
                cost_s += self._sequencer.commit_cost_s + time.thread_time() - began
                self._cost_s = min(cost_s, MAX_RISE * max(self._cost_s, USUAL_COST_S))
        elif isinstance(error, StoreFull):
            self._wait_for_room(decided, error)
            return
        else:
            _fail(decided, error)
        self._advance()

    def _await_run_end(self, missing: MissingEnd) -> None:
        """Add the `run_end` that is missing unless something comes before RUN_END_S are over."""
        self._missing_end = missing
        if self._run_end_timer is not None:
            self._run_end_timer.cancel()
            self._run_end_timer = None
        if missing == "awaited":
            self._run_end_timer = self._sequencer.loop.call_later(RUN_END_S, self.add_run_end)

    def _tell(self, builder: ChangeBuilder) -> None:
        """Tell the rulings to those who wait for them, and whose turn it is."""
        began, self.offer = builder.offer is not self.offer and builder.offer is not None, builder.offer
        if began and not self._disconnected:
            self._on_offer(self)
        for request_id, ruling in builder.rulings.items():
            asked = self.asked.pop(request_id, None)
            if asked is not None and not asked.done():
                asked.set_result(ruling)

    def _wait_for_room(self, decided: list[Command], error: StoreFull) -> None:
        kept = [command for command in decided if command.keep]
        _fail([command for command in decided if not command.keep], error)
        for command in kept:
            command.delay(error)
        others_are_urgent = self._urgent
        self._put_back(kept)
        now = self._sequencer.loop.time()
        if kept and not others_are_urgent:
            self._urgent, self._rested = False, now + STORE_RETRY_S
        self._wait_until(now + STORE_RETRY_S if kept else now)


def _output(payloads: Sequence[Payload], builder: ChangeBuilder) -> None:
    record_output(builder, payloads)


def _succeed(commands: Sequence[Command]) -> None:
    for command in commands:
        command.succeed()


def _fail(commands: Sequence[Command], error: BaseException) -> None:
    for command in commands:
        command.fail(error)


def _call(callback: Callable[[], None] | None) -> None:
    try:
        if callback is not None:
            callback()
    except Exception:
        log.exception("the execution backend failed")


def _settle(stored: asyncio.Future[None]) -> None:
    if not stored.done():
        stored.set_result(None)
