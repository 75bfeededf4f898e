"""Large stores, written in large Changes by the product's own decisions and store.

`python -m benchmarks.filling FOLDER WORKERS EVENTS KIND` creates WORKERS Workers that share EVENTS events. KIND is
`ticks`, or `texts`: each text is also an entry of a transcript.
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
from runtimed.core.limits import Limits
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
    """Create a store in a folder that must not exist."""
    subprocess.run(python("benchmarks.filling", str(folder), str(workers), str(events), kind), check=True)


async def _fill(folder: Path, workers: int, events: int, kind: str) -> None:
    store = SqliteStore(folder)
    sequencer = Sequencer(store, SteadyClock(), await store.open(None), Limits().max_idempotency_keys)
    try:
        in_flight: deque[asyncio.Future[Sequence[EncodedEvent]]] = deque()
        for change in _changes(sequencer, workers, events, EVENTS[kind]):
            in_flight.append(sequencer.commit(change))
            if len(in_flight) >= IN_FLIGHT:
                await in_flight.popleft()
        await asyncio.gather(*in_flight)
    finally:
        await store.close()


def _changes(sequencer: Sequencer, workers: int, events: int, make: Callable[[int], Payload]) -> Iterator[Change]:
    for number in range(1, workers + 1):
        worker, activity = new_worker(worker_id(number), CreateWorkerRequest(), (), sequencer.unix_ms()), Activity()
        yield Change(worker)
        share = events * number // workers - events * (number - 1) // workers
        for first in range(0, share, CHANGE_EVENTS):
            builder = ChangeBuilder(worker, activity, sequencer)
            record_output(builder, map(make, range(first, min(first + CHANGE_EVENTS, share))))
            change = builder.change()
            assert change is not None
            worker, activity = builder.worker, builder.activity
            yield change


if __name__ == "__main__":
    folder, workers, events, kind = sys.argv[1:]
    asyncio.run(_fill(Path(folder), int(workers), int(events), kind))
