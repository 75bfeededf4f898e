"""The delay from a program's event to its frame, one event each 30 ms: the `fs:` store against the memory store.

A `process` Worker prints events, each with the CLOCK_MONOTONIC time at which it was due, for one observer. With the
`fs:` store each event is synced to the disk before it is sent.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.agents import configure, request
from benchmarks.rows import Plan, Row, at_most
from benchmarks.series import Delivery, deliver
from benchmarks.servers import Daemon, installed, remove
from benchmarks.ticking import ticker
from benchmarks.ticks import Series

RATE = 33
SECONDS = 6.0


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the median and the 99th percentile of the delay with each store."""
    folder, series = plan.folder / "interactive", Series(int(RATE * plan.size(SECONDS, 0.5)), RATE)
    log, durable, memory = folder / "observers.log", folder / "durable", folder / "memory"
    for home in (durable, memory):
        configure(home, {"ticker": ticker()})
    try:
        with (
            Daemon(installed(), durable, store=f"fs:{durable / 'store'}") as stored,
            Daemon(installed(), memory) as kept,
        ):
            runs = [
                partial(deliver, daemon, daemon.create_worker(**request("ticker")), series, 1, log)
                for daemon in (stored, kept)
            ]
            on_disk, in_memory = plan.interleave(*runs)
    finally:
        remove(folder)
    return [_row(percent, on_disk, in_memory) for percent in (50, 99)]


def _row(percent: int, on_disk: Sequence[Delivery], in_memory: Sequence[Delivery]) -> Row:
    ours, baseline = ([getattr(one.seen, f"p{percent}_ms") for one in runs] for runs in (on_disk, in_memory))
    return Row(f"event each 30 ms to frame, p{percent}", "ms", ours, baseline, at_most(3.0))
