"""Large stores, written by the product's own store in large Changes.

`python -m benchmarks.filling FOLDER WORKERS EVENTS KIND`: so many Workers, and as many events among all of them. KIND
says what the events are: `ticks`, or `messages`, each of which is an entry of a transcript too.
"""

import asyncio
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Literal

import attrs

from benchmarks.processes import python
from benchmarks.ticks import tick
from runtimed.core.change import Change, EncodedEvent, Entry, Event, Worker
from runtimed.core.decide import new_worker
from runtimed.model.event import SystemItem, TextSegment, UserMessage
from runtimed.model.identity import worker_id
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.sqlite import SqliteStore

Kind = Literal["ticks", "messages"]

CHANGE_EVENTS = 1_000
IN_FLIGHT = 16
CONTENT = "What was said, in a sentence that is about as long as most of them are."


def fill(folder: Path, *, workers: int, events: int, kind: Kind) -> None:
    """Make a store; it must not be there yet."""
    subprocess.run(python("benchmarks.filling", str(folder), str(workers), str(events), kind), check=True)


async def _fill(folder: Path, workers: int, events: int, kind: str) -> None:
    store = SqliteStore(folder)
    await store.open(None)
    try:
        begun: deque[asyncio.Future[Sequence[EncodedEvent]]] = deque()
        for change in _changes(workers, events, messages=kind == "messages"):
            begun.append(store.commit(change))
            if len(begun) >= IN_FLIGHT:
                await begun.popleft()
        await asyncio.gather(*begun)
    finally:
        await store.close()


def _changes(workers: int, events: int, *, messages: bool) -> Iterator[Change]:
    sequences = count(1)
    for number in range(1, workers + 1):
        worker = new_worker(worker_id(number), CreateWorkerRequest())
        share = events * number // workers - events * (number - 1) // workers
        for first in range(0, max(share, 1), CHANGE_EVENTS):
            size = min(CHANGE_EVENTS, share - first)
            change = _change(worker, [next(sequences) for _ in range(size)], messages=messages)
            worker = change.worker or worker
            yield change


def _change(worker: Worker, sequences: list[int], *, messages: bool) -> Change:
    name, length = worker.worker_id, worker.transcript_len
    if messages:
        payload = UserMessage((TextSegment(CONTENT),))
        events = [Event(one, name, payload, 0, length + at, "idle") for at, one in enumerate(sequences, 1)]
        entries = [Entry(name, event.transcript_len, "user", CONTENT, event.sequence) for event in events]
    else:
        events = [Event(one, name, SystemItem(tick(one)), 0, length, "idle") for one in sequences]
        entries = []
    last = sequences[-1] if sequences else 0
    after = attrs.evolve(worker, last_sequence=last, transcript_len=length + len(entries))
    return Change(after, entries, events)


if __name__ == "__main__":
    folder, workers, events, kind = sys.argv[1:]
    asyncio.run(_fill(Path(folder), int(workers), int(events), kind))
