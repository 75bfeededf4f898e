"""Large stores, written by the product's own decisions and store in large Changes.

`python -m benchmarks.filling FOLDER WORKERS EVENTS KIND`: so many Workers, and as many events among all of them. KIND
says what the events are: `ticks`, or `texts`, each of which is an entry of a transcript too.
"""

import asyncio
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.processes import python
from benchmarks.ticks import tick
from runtimed.core.clock import SteadyClock
from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.state.activity import Activity
from runtimed.core.state.change import Change, EncodedEvent
from runtimed.core.state.change_builder import ChangeBuilder
from runtimed.core.state.decisions import new_worker, record_output
from runtimed.model.event import Payload, SystemItem, TextDone
from runtimed.model.identity import worker_id
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.sqlite import SqliteStore

Kind = Literal["ticks", "texts"]

CHANGE_EVENTS = 1_000
IN_FLIGHT = 16
TEXT = TextDone("What was said, in a sentence that is about as long as most of them are.")
EVENTS: dict[str, Callable[[int], Payload]] = {
    "ticks": lambda number: SystemItem(tick(number, number)),
    "texts": lambda _number: TEXT,
}


def fill(folder: Path, *, workers: int, events: int, kind: Kind) -> None:
    """Make a store; it must not be there yet."""
    subprocess.run(python("benchmarks.filling", str(folder), str(workers), str(events), kind), check=True)


async def _fill(folder: Path, workers: int, events: int, kind: str) -> None:
    store = SqliteStore(folder)
    pipeline = Sequencer(store, SteadyClock(), await store.open(None))
    try:
        begun: deque[asyncio.Future[Sequence[EncodedEvent]]] = deque()
        for change in _changes(pipeline, workers, events, EVENTS[kind]):
            begun.append(pipeline.commit(change))
            if len(begun) >= IN_FLIGHT:
                await begun.popleft()
        await asyncio.gather(*begun)
    finally:
        await store.close()


def _changes(pipeline: Sequencer, workers: int, events: int, make: Callable[[int], Payload]) -> Iterator[Change]:
    for number in range(1, workers + 1):
        worker, activity = new_worker(worker_id(number), CreateWorkerRequest(), pipeline.unix_ms()), Activity()
        yield Change(worker)
        share = events * number // workers - events * (number - 1) // workers
        for first in range(0, share, CHANGE_EVENTS):
            draft = ChangeBuilder(worker, activity, pipeline)
            record_output(draft, map(make, range(first, min(first + CHANGE_EVENTS, share))))
            change = draft.change()
            assert change is not None
            worker, activity = draft.worker, draft.activity
            yield change


if __name__ == "__main__":
    folder, workers, events, kind = sys.argv[1:]
    asyncio.run(_fill(Path(folder), int(workers), int(events), kind))
