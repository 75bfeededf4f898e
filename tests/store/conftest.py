"""A durable store in a folder of its own, and what is told to it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from runtimed.core.paging import PageSize
from runtimed.core.ports import Clock
from runtimed.core.state.change import Change, EncodedEvent, Entry, Event, StateAt, StoredState, Worker
from runtimed.model.event import TextSegment, UserMessage
from runtimed.model.execution import Execution
from runtimed.model.identity import RuntimeId, worker_id
from runtimed.model.runtime import StoreCheck
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.sqlite import SqliteStore
from runtimed.store.sqlite.sync import Sync

MAX_SEQUENCE = 2**63 - 1
WIDE = PageSize(items=10_000, max_bytes=100_000_000)


class Inputs:
    """Inputs to Workers as Changes: each has the Worker's row, an event and an entry.

    Attributes:
        tenants: The tenants of new Workers, by number.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._workers: dict[int, Worker] = {}
        self.tenants: dict[int, str] = {}

    def take_back(self) -> None:
        """The last input was not taken: the next one takes its place."""
        self._sequence, self._workers = self._before

    def __call__(self, number: int, content: str) -> Change:
        self._before = self._sequence, dict(self._workers)
        self._sequence += 1
        new = Worker(
            worker_id(number),
            CreateWorkerRequest(),
            "running",
            Execution("connected", "busy"),
            since=self._sequence,
            activity="running",
            tenant=self.tenants.get(number),
        )
        worker = self._workers.get(number, new)
        place = worker.transcript_len + 1
        self._workers[number] = attrs.evolve(
            worker, transcript_len=place, last_sequence=self._sequence, retained=worker.retained + 1
        )
        payload = UserMessage((TextSegment(content),))
        return Change(
            worker=self._workers[number],
            events=[
                Event(
                    self._sequence,
                    worker.worker_id,
                    1_000 * self._sequence,
                    payload,
                    worker.since,
                    place,
                    "running",
                    worker.last_sequence,
                )
            ],
            entries=[Entry(worker.worker_id, place, "user", content, self._sequence, 1_000 * self._sequence)],
        )


@pytest.fixture
def said() -> Inputs:
    return Inputs()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


class Driven:
    """A durable store, driven from outside its event loop."""

    def __init__(self, runner: asyncio.Runner, path: Path, sync: Sync, clock: Clock | None = None) -> None:
        self.run = runner.run
        self.store = SqliteStore(path, sync, clock)

    def open(self, runtime_id: str | None = None) -> StoredState:
        return self.run(self.store.open(RuntimeId(runtime_id) if runtime_id else None))

    def commit(self, change: Change) -> Sequence[EncodedEvent]:
        [outcome] = self.commit_at_once(change)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def commit_at_once(self, *changes: Change) -> list[Sequence[EncodedEvent] | BaseException]:
        """What comes of Changes that are handed in before any of them is done."""

        async def commit() -> list[Sequence[EncodedEvent] | BaseException]:
            return await asyncio.gather(*map(self.store.commit, changes), return_exceptions=True)

        return self.run(commit())

    def entries(self, number: int) -> list[str]:
        found = self.run(self.store.read_entries(worker_id(number), 0, WIDE))
        return [entry.content for entry in found]

    def newest_entries(self, number: int) -> list[str]:
        found = self.run(self.store.newest_entries(worker_id(number), MAX_SEQUENCE, WIDE))
        return [entry.content for entry in found]

    def events(self, number: int, upto: int = MAX_SEQUENCE, after: int = 0) -> list[int]:
        found = self.run(self.store.read_events(worker_id(number), after, upto, WIDE))
        return [event.sequence for event in found]

    def state_at(self, number: int, sequence: int) -> StateAt:
        return self.run(self.store.state_at(worker_id(number), sequence))

    def check(self) -> StoreCheck:
        return self.run(self.store.check())

    def close(self) -> None:
        self.run(self.store.close())


NewStore = Callable[..., Driven]


@pytest.fixture
def new_store(folder: Path) -> Iterator[NewStore]:
    """Makes stores, on the same folder where no other is named, and closes them in the end."""
    made: list[Driven] = []
    with asyncio.Runner() as runner:

        def make(path: Path = folder, sync: Sync = "full", clock: Clock | None = None) -> Driven:
            made.append(Driven(runner, path, sync, clock))
            return made[-1]

        yield make
        for store in made:
            store.close()
