"""What every adapter of a port is tested with."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtimed.core.ports import Store
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, Entry, Event, StateAt, StoredState, Trim, TrimRange, Worker
from runtimed.model.bundle import Declaration
from runtimed.model.event import Payload, SystemItem, TextDone, UserMessage
from runtimed.model.execution import Execution
from runtimed.model.identity import RuntimeId, WorkerId, worker_id
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore

BORN_MS = 1_700_000_000_000


def told_at(sequence: int) -> int:
    """The time of the event with this sequence, in milliseconds since 1970."""
    return BORN_MS + 1_000 * sequence


class Teller:
    """Tells the story of some Workers as Changes, each following from those before it, as a Runtime would."""

    def __init__(self) -> None:
        self.sequence = 0
        self.workers: dict[WorkerId, Worker] = {}
        self.activities: dict[WorkerId, Activity] = {}

    def create(
        self,
        request: CreateWorkerRequest | None = None,
        number: int | None = None,
        declarations: tuple[Declaration, ...] = (),
        tenant: str | None = None,
    ) -> Change:
        """A Change with one more Worker, the last of `workers`. By default its number is how many there are then."""
        number = number or len(self.workers) + 1
        worker = Worker(
            worker_id(number),
            request or CreateWorkerRequest(),
            "running",
            Execution("connected", "idle"),
            created_at_ms=BORN_MS + number - 1,
            last_event_ms=BORN_MS + number - 1,
            declarations=declarations,
            tenant=tenant,
        )
        self.workers[worker.worker_id] = worker
        self.activities[worker.worker_id] = Activity()
        return Change(worker=worker)

    def tell(self, worker_id: WorkerId, *payloads: Payload) -> Change:
        """A Change with events of one Worker, and the entries that they make."""
        events, entries = [], []
        for payload in payloads:
            event, entry = self._step(self.workers[worker_id], payload)
            events.append(event)
            entries += [entry] if entry else []
        return Change(worker=self.workers[worker_id], events=events, entries=entries)

    def trim(self, worker_id: WorkerId, trim_range: TrimRange, state_at: StateAt) -> Change:
        """A Change that takes out a Worker's oldest events."""
        worker = self.workers[worker_id]
        self.workers[worker_id] = attrs.evolve(
            worker, retained_after=trim_range.upto, retained=worker.retained - trim_range.count
        )
        return Change(worker=self.workers[worker_id], trim=Trim(trim_range, state_at))

    def delete(self, worker_id: WorkerId) -> Change:
        """A Change that takes out a Worker."""
        del self.workers[worker_id], self.activities[worker_id]
        return Change(deleted=worker_id)

    def _step(self, worker: Worker, payload: Payload) -> tuple[Event, Entry | None]:
        self.sequence += 1
        previous = worker.last_sequence
        activity = self.activities[worker.worker_id] = self.activities[worker.worker_id].after(payload)
        entry = self._entry(worker, payload)
        worker = self.workers[worker.worker_id] = attrs.evolve(
            worker,
            transcript_len=worker.transcript_len + (entry is not None),
            last_sequence=self.sequence,
            since=worker.since or self.sequence if activity.open else 0,
            activity=activity.status,
            retained=worker.retained + 1,
            last_event_ms=told_at(self.sequence),
        )
        place = (worker.since, worker.transcript_len, activity.status, previous)
        return Event(self.sequence, worker.worker_id, told_at(self.sequence), payload, *place), entry

    def _entry(self, worker: Worker, payload: Payload) -> Entry | None:
        said: tuple[Any, str] | None = None
        if isinstance(payload, UserMessage):
            said = "user", payload.segments[0].content
        elif isinstance(payload, SystemItem) and "content" in payload.item:
            said = "system", payload.item["content"]
        elif isinstance(payload, TextDone):
            said = "assistant", payload.text
        place, time = worker.transcript_len + 1, told_at(self.sequence)
        return Entry(worker.worker_id, place, *said, self.sequence, time) if said else None


class Host:
    """A store that can be closed and opened again."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make = make
        self.store = make()

    async def open(self, runtime_id: str | None = None) -> StoredState:
        return await self.store.open(RuntimeId(runtime_id) if runtime_id else None)

    async def reopen(self, runtime_id: str | None = None) -> StoredState:
        await self.store.close()
        self.store = self._make()
        return await self.open(runtime_id)


@pytest.fixture
def teller() -> Teller:
    return Teller()


@pytest.fixture
def new_teller() -> Callable[[], Teller]:
    return Teller


@pytest.fixture(params=["memory", "sqlite"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    memory = MemoryStore()
    made: dict[str, Callable[[], Store]] = {
        "memory": lambda: memory,
        "sqlite": lambda: SqliteStore(tmp_path / "store"),
    }
    found = Host(made[request.param])
    yield found
    await found.store.close()
