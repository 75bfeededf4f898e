"""The way of every change: decide, commit, apply, publish; one Change of a Worker at a time."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import attrs

from runtimed.core.activity import Activity
from runtimed.core.change import Change, EncodedEvent, Worker
from runtimed.core.decide import disconnected, take_output
from runtimed.core.draft import Draft
from runtimed.core.limits import Limits
from runtimed.core.ports import Store
from runtimed.errors import Internal, RuntimedError, RuntimeStopped, SerializeFailed, StatePoisoned, StoreFull
from runtimed.model.event import (
    ErrorRaised,
    Payload,
    RunEnd,
    Shutdown,
    Snapshot,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    UserMessage,
)
from runtimed.model.identity import WorkerId

STORE_RETRY_S = 1.0
"""How long output waits before it is offered again to a store that was full."""

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Somebody who is told of what was published."""

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """Events of one Worker, durable and applied; called on the event loop, in the order of their sequences."""


class Pipeline:
    """What the lanes share: the store, the sequence, the listeners, and the knowledge that a write has failed."""

    def __init__(self, store: Store, head: int) -> None:
        self.head = head
        self.poisoned: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._allotted = head
        self._store = store
        self._listeners: list[Listener] = []
        self._closed = False

    def subscribe(self, listener: Listener) -> None:
        """Tell this listener of all that is published from now on."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Tell this listener no more."""
        self._listeners.remove(listener)

    def next_sequence(self) -> int:
        """Allot the next sequence; it is never allotted again."""
        self._allotted += 1
        return self._allotted

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """Hand a Change to the store. Raises StatePoisoned or RuntimeStopped where that is over."""
        if self.poisoned.done():
            raise StatePoisoned
        if self._closed:
            raise RuntimeStopped
        return self._store.commit(change)

    async def apply(self, change: Change, apply: Callable[[], None]) -> None:
        """Commit a Change that belongs to no lane, and apply it even if the caller is gone by then."""
        committed = self.commit(change)
        committed.add_done_callback(partial(self._apply, apply))
        await asyncio.shield(committed)

    def _apply(self, apply: Callable[[], None], committed: asyncio.Future[Sequence[EncodedEvent]]) -> None:
        if self.failed(committed) is None:
            apply()

    def failed(self, committed: asyncio.Future[Sequence[EncodedEvent]]) -> BaseException | None:
        """Why a commit failed, or None. Any failure that cannot be lived with poisons the Runtime."""
        error = committed.exception()
        if error is None or isinstance(error, StoreFull | RuntimeStopped):
            return error
        if not self.poisoned.done():
            log.error("the store failed, nothing more is accepted: %s", error)
            self.poisoned.set_result(error)
        return error

    def publish(self, worker_id: WorkerId, events: Sequence[EncodedEvent]) -> None:
        """Tell the listeners of events that are durable and applied."""
        if not events:
            return
        self.head = events[-1].sequence
        for listener in tuple(self._listeners):
            try:
                listener.publish(worker_id, events)
            except Exception:
                log.exception("a listener failed")

    def close(self) -> None:
        """Commit nothing more."""
        self._closed = True


@attrs.define(eq=False)
class Proposal:
    """A decision that waits for its turn.

    `decide` gets the Draft; what it returns answers `answered` once the Change is committed. `committed` and
    `abandoned` are called whatever became of the caller. With `keep` a full store only delays it: the caller is told
    StoreFull, and the decision is taken as soon as there is room.
    """

    decide: Callable[[Draft], Any]
    answered: asyncio.Future[Any]
    committed: Callable[[], None] | None = None
    abandoned: Callable[[], None] | None = None
    keep: bool = False
    weight: int = 0
    _answer: Any = None

    def attempt(self, draft: Draft) -> bool:
        """Take the decision; one that fails is answered at once and leaves the Draft as it was."""
        try:
            self._answer = draft.attempt(self.decide)
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
        if not self.answered.done():
            self.answered.set_result(self._answer)

    def fail(self, error: BaseException) -> None:
        """Nothing of it was stored, nor will be."""
        _call(self.abandoned)
        self.delay(error)

    def delay(self, error: BaseException) -> None:
        """Nothing of it was stored yet."""
        if not self.answered.done():
            self.answered.set_exception(error)


class Lane:
    """One Worker in the catalog, and the changes that it waits for.

    What arrives while a Change is in flight is decided together as the next one, so that a decision always sees
    applied state, and a burst of events becomes one Change by itself.
    """

    __slots__ = ("_alone", "_in_flight", "_pipeline", "_retry", "_waiting", "activity", "backlog", "worker")

    def __init__(self, pipeline: Pipeline, worker: Worker, activity: Activity) -> None:
        self.worker = worker
        self.activity = activity
        self.backlog = 0
        self._pipeline = pipeline
        self._waiting: list[Proposal] = []
        self._in_flight = False
        self._alone = 0
        self._retry: asyncio.TimerHandle | None = None

    def disconnect(self) -> None:
        """What ran this Worker is gone. That is known at once, whatever becomes of the decision that tells of it."""
        if self.worker.status == "running":
            self.worker = attrs.evolve(self.worker, execution=disconnected(self.worker.execution))

    async def propose(
        self,
        decide: Callable[[Draft], Any],
        *,
        committed: Callable[[], None] | None = None,
        abandoned: Callable[[], None] | None = None,
        keep: bool = False,
    ) -> Any:
        """Take a decision through all four steps and return its answer. A caller that is cancelled undoes nothing."""
        answered = asyncio.get_running_loop().create_future()
        self._enqueue(Proposal(decide, answered, committed, abandoned, keep))
        return await answered

    def output(self, payloads: Sequence[Payload]) -> asyncio.Future[None]:
        """Take events of the backend; the future is done once they are committed, or dropped for good."""
        stored = asyncio.get_running_loop().create_future()
        answered = asyncio.get_running_loop().create_future()
        answered.add_done_callback(_seen)
        settled = partial(_settle, stored)
        self._enqueue(
            Proposal(partial(_output, payloads), answered, settled, settled, keep=True, weight=len(payloads))
        )
        return stored

    def _enqueue(self, proposal: Proposal) -> None:
        self._waiting.append(proposal)
        self.backlog += proposal.weight
        self._advance()

    def _advance(self) -> None:
        while self._waiting and not self._in_flight:
            taken = self._take()
            draft = Draft(self.worker, self.activity, self._pipeline.next_sequence)
            decided = [proposal for proposal in taken if proposal.attempt(draft)]
            change = draft.change()
            if change is None:
                _succeed(decided)
            else:
                self._commit(change, draft, decided)

    def _take(self) -> list[Proposal]:
        taken, self._waiting = self._waiting, []
        if self._alone:
            self._alone -= 1
            self._waiting = taken[1:]
            taken = taken[:1]
        self.backlog -= sum(proposal.weight for proposal in taken)
        return taken

    def _put_back(self, proposals: list[Proposal]) -> None:
        self._waiting[:0] = proposals
        self.backlog += sum(proposal.weight for proposal in proposals)

    def _commit(self, change: Change, draft: Draft, decided: list[Proposal]) -> None:
        try:
            committed = self._pipeline.commit(change)
        except SerializeFailed as error:
            self._isolate(decided, error)
        except RuntimedError as error:
            _fail(decided, error)
        else:
            self._in_flight = True
            committed.add_done_callback(partial(self._committed, draft, decided))

    def _isolate(self, decided: list[Proposal], error: SerializeFailed) -> None:
        if len(decided) == 1:
            log.error("%s: an event was dropped, it can't be encoded", self.worker.worker_id)
            _fail(decided, error)
        else:
            self._put_back(decided)
            self._alone = len(decided)

    def _committed(
        self, draft: Draft, decided: list[Proposal], committed: asyncio.Future[Sequence[EncodedEvent]]
    ) -> None:
        self._in_flight = False
        error = self._pipeline.failed(committed)
        if error is None:
            self.worker, self.activity = draft.worker, draft.activity
            self._pipeline.publish(self.worker.worker_id, committed.result())
            _succeed(decided)
        elif isinstance(error, StoreFull):
            self._wait_for_room(decided, error)
            return
        else:
            _fail(decided, error)
        self._advance()

    def _wait_for_room(self, decided: list[Proposal], error: StoreFull) -> None:
        kept = [proposal for proposal in decided if proposal.keep]
        _fail([proposal for proposal in decided if not proposal.keep], error)
        for proposal in kept:
            proposal.delay(error)
        self._put_back(kept)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(STORE_RETRY_S if kept else 0, self._advance)


class LaneSink:
    """The EventSink of one Worker. It makes the backend wait while more events wait for the store than may."""

    def __init__(self, lane: Lane, limits: Limits) -> None:
        self._lane = lane
        self._limits = limits
        self._open_text = 0

    async def emit(self, *payloads: Payload) -> None:
        """See EventSink."""
        for payload in payloads:
            self._check(payload)
        stored = self._lane.output(payloads)
        if self._lane.backlog > self._limits.max_pending_events:
            await asyncio.shield(stored)

    def _check(self, payload: Payload) -> None:
        if isinstance(payload, UserMessage | Snapshot | Shutdown):
            raise ValueError(f"{payload.event} is for the Runtime to say")  # noqa: TRY004 a value, not a type
        if isinstance(payload, TextDelta | ThinkingDelta):
            self._open_text += len(payload.text)
        elif isinstance(payload, TextDone | ThinkingDone | RunEnd | ErrorRaised):
            self._open_text = 0
        if self._open_text > self._limits.max_open_text:
            raise ValueError(f"expected a text_done at the latest behind {self._limits.max_open_text} characters")


def _output(payloads: Sequence[Payload], draft: Draft) -> None:
    take_output(draft, payloads)


def _succeed(proposals: Sequence[Proposal]) -> None:
    for proposal in proposals:
        proposal.succeed()


def _fail(proposals: Sequence[Proposal], error: BaseException) -> None:
    for proposal in proposals:
        proposal.fail(error)


def _call(callback: Callable[[], None] | None) -> None:
    try:
        if callback is not None:
            callback()
    except Exception:
        log.exception("the execution backend failed")


def _settle(stored: asyncio.Future[None]) -> None:
    if not stored.done():
        stored.set_result(None)


def _seen(future: asyncio.Future[Any]) -> None:
    future.exception()
