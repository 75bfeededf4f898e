"""What the core asks of the outside: a store, a backend that runs Workers, a clock.

All arguments and answers are plain frozen values, so that an adapter may live in another process.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from runtimed.core.limits import Limits
from runtimed.core.paging import PageSize
from runtimed.core.state.change import Change, EncodedEvent, Entry, StateAt, StoredState, TrimRange
from runtimed.model.event import Payload
from runtimed.model.execution import BackendAnswer, LossReason
from runtimed.model.identity import RuntimeId, WorkerId
from runtimed.model.interaction import WorkerInput
from runtimed.model.permission import Question, Ruling
from runtimed.model.runtime import RuntimeBackend, RuntimeEvent, StoreCheck, StoreKind
from runtimed.model.value import value
from runtimed.model.worker import CreateWorkerRequest


class Clock(Protocol):
    """The time of day. Order and time-outs never depend on it."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970."""


class Store(Protocol):
    """Keeps a Runtime. It decides nothing: what it is given it stores, what it stored it gives back.

    Every method may raise StoreIo, StoreMissing or StoreCorrupt; nothing else escapes but what is named.
    """

    backend: RuntimeBackend
    kind: StoreKind

    @property
    def event_bytes(self) -> int:
        """The bytes of the payloads of all events that are not purged, as of the newest commit that is done."""

    @property
    def commit_cost_s(self) -> float:
        """The processor time that the newest commit that is done took outside of the event loop.

        Where several Changes were written at once, it is the share of one. Waiting for the disk is none of it.
        """

    async def open(self, runtime_id: RuntimeId | None) -> StoredState:
        """Load everything but transcripts and events.

        A store without a Runtime takes `runtime_id`, or makes one up. Raises StoreForeign when it holds another,
        StoreInUse when another process has it open, StoreUnsupported when it cannot be used at all.
        """

    def commit(self, change: Change) -> asyncio.Future[Sequence[EncodedEvent]]:
        """Make a Change durable, first in, first out; called on the event loop, returns at once.

        The future is done once the Change is as safe as this store promises, with the events as they were encoded.
        Futures of one store finish in the order of the calls. Fails with StoreFull (nothing was stored, a later try
        may succeed) or another StoreError (nothing more can be promised).
        """

    async def read_entries(self, worker_id: WorkerId, start: int, page: PageSize) -> Sequence[Entry]:
        """Entries with a sequence above `start`, oldest first."""

    async def newest_entries(self, worker_id: WorkerId, upto: int, page: PageSize) -> Sequence[Entry]:
        """The newest entries with a sequence of at most `upto`, oldest first."""

    async def read_events(self, worker_id: WorkerId, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """Retained events with `after` < sequence <= `upto`, oldest first.

        They end in front of one that is damaged or missing. Raises StoreCorrupt where that is the first, as it is
        where some were trimmed behind `after`.
        """

    async def read_all_events(self, after: int, upto: int, page: PageSize) -> Sequence[EncodedEvent]:
        """The same of all Workers, by sequence; those of deleted Workers are left out."""

    async def oldest_events(
        self, worker_id: WorkerId | None, upto: int, count: int, spared: Collection[WorkerId] = ()
    ) -> Sequence[TrimRange]:
        """The `count` oldest retained events with a sequence of at most `upto`, of one Worker or of all but some."""

    async def read_runtime_events(self, after: int, page: PageSize) -> Sequence[RuntimeEvent]:
        """Runtime events with an id above `after`, oldest first."""

    async def state_at(self, worker_id: WorkerId, sequence: int) -> StateAt:
        """How the Worker stood at this sequence, that is right behind its newest event up to there.

        Raises StoreCorrupt for one before the retained events.
        """

    async def purge(self, worker_id: WorkerId) -> bool:
        """Remove some of what is left of a deleted Worker, not holding up commits for long; True when all is gone."""

    async def check(self) -> StoreCheck:
        """Read everything, in short pages, and tell what is damaged, missing or not private. Changes nothing."""

    async def close(self) -> None:
        """Finish what was handed in, then let go of everything. Harmless when repeated."""


class EventRefused(ValueError):
    """An event that a backend may not emit; the text says what is wrong with it."""


@value
class Spawn:
    """A Worker that is to be run; `history` is the newest page of its transcript where it is brought back.

    `max_open_text` is how many characters may be open at once in the sink, see EventSink.emit.
    """

    worker_id: WorkerId
    request: CreateWorkerRequest
    history: tuple[Entry, ...] | None = None
    max_open_text: int = Limits().max_open_text


@value
class Dispatch:
    """An input that is offered; `input_id` names it in what follows."""

    worker_id: WorkerId
    input_id: str
    input: WorkerInput


class EventSink(Protocol):
    """Where a backend puts what one Worker says. Bounded: it makes the caller wait while the store is behind."""

    async def emit(self, *payloads: Payload) -> None:
        """Take events, in order.

        Raises EventRefused for `user_message`, `snapshot`, `shutdown` and the items of permissions and system inputs,
        which are the Runtime's own, and for text, thought and arguments that grow beyond `max_open_text` together
        without an end.
        An `error` ends the run: where nothing follows it for a second, the Runtime adds the `run_end`, and drops the
        one that comes later with an alert.
        Nothing is said after the Worker was stopped or its program was lost: what still comes is dropped.
        """

    async def ask(self, question: Question) -> Ruling:
        """Ask for a permission, and wait until it was ruled on.

        It never outlives its run: whatever ends the run, or this call, cancels it. At most `max_pending_permissions`
        wait at once; one more is cancelled, as is one outside of a run.
        """

    async def lose(self, reason: LossReason, message: str) -> None:
        """The Worker's program is gone, and nothing of it is left; `message` says how it ended.

        The run is closed, and the Worker is `errored`. Nothing more is taken: to go on, it is spawned again.
        """


class ExecutionBackend(Protocol):
    """Runs Workers. A refusal is an Answer, never an exception; what happens later comes through the sink.

    An input takes two steps, so that nothing runs that a crash could take back: `dispatch` accepts it (or refuses),
    then, once it is stored, `start` lets it run, or `withdraw` takes it back. A run ends with `run_end`, said when
    the next input would be accepted; what else the backend says of its end comes before.
    """

    async def spawn(self, spawn: Spawn, sink: EventSink) -> BackendAnswer:
        """Get a Worker ready to take inputs; again, with a new sink, where it was lost or the Runtime was.

        A `cancel` that comes meanwhile is to end that: nobody waits any more for what is not ready.
        """

    async def dispatch(self, dispatch: Dispatch) -> BackendAnswer:
        """Accept an input, or say busy, rejected, errored or unsupported. Nothing runs yet."""

    def start(self, worker_id: WorkerId, input_id: str) -> None:
        """Let the accepted input run; returns at once."""

    def withdraw(self, worker_id: WorkerId, input_id: str) -> None:
        """Forget the accepted input, it could not be stored; returns at once."""

    async def interrupt(self, worker_id: WorkerId) -> BackendAnswer:
        """End the current run, the Worker goes on. Harmless for an unknown one.

        When it returns `accepted`, the `run_end` was emitted, or no run was going on.
        """

    async def stop(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        """End a Worker in good order. When it returns nothing of it is left. Harmless for an unknown one."""

    async def cancel(self, worker_id: WorkerId, reason: str | None) -> BackendAnswer:
        """End a Worker at once. When it returns nothing of it is left. Harmless for an unknown one."""

    async def delete(self, worker_id: WorkerId) -> None:
        """Remove what is kept of a Worker that is over, its folder for one. Harmless for an unknown one.

        Raises OSError where something of it is left, with a `strerror` that clients may read. It is called again at
        the next start then.
        """

    async def close(self) -> None:
        """End every Worker in good order."""
