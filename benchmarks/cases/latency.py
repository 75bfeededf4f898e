"""The 99th percentile of the delay from when an event is due to its being read: `fs:` against the memory store.

One Worker has 100 observers and 1,000 events a second. Each event has the CLOCK_MONOTONIC time at which it was due.
So the delay includes the wait for other work, the commit, and the observers that are served first. In the second row
20 more observers stop reading and fall behind. It compares the delay of the 100 with them and without them.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.rows import Plan, Row, at_most
from benchmarks.series import Delivery, deliver
from benchmarks.servers import Daemon, loaded, remove
from benchmarks.stalling import stalling
from benchmarks.ticks import Series

RATE = 1_000
EVENTS = 5_000
OBSERVERS = 100
STALLED = 20


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the delay with each store."""
    folder, series = plan.folder / "latency", Series(plan.size(EVENTS, 500), RATE)
    log = folder / "observers.log"
    try:
        with (
            Daemon(loaded(), folder / "durable", store=f"fs:{folder / 'store'}") as durable,
            Daemon(loaded(), folder / "memory") as memory,
        ):
            stored, kept = durable.create_worker(), memory.create_worker()
            on_disk, in_memory, beside_stalled = plan.interleave(
                lambda: deliver(durable, stored, series, OBSERVERS, log),
                lambda: deliver(memory, kept, series, OBSERVERS, log),
                lambda: _beside_stalled(durable, stored, series, log),
            )
    finally:
        remove(folder)
    return [
        Row(
            f"event to frame, p99, {OBSERVERS} observers",
            "ms",
            _p99(on_disk),
            _p99(in_memory),
            at_most(3.0),
            f"the median delay is {_p50(on_disk)} ms with fs:, {_p50(in_memory)} ms in memory",
        ),
        Row(
            f"event to frame, p99, {STALLED} more stalled",
            "ms",
            _p99(beside_stalled),
            _p99(on_disk),
            at_most(1.25),
            f"the median delay is {_p50(beside_stalled)} ms beside them, {_p50(on_disk)} ms without them",
        ),
    ]


def _beside_stalled(daemon: Daemon, worker: str, series: Series, log: Path) -> Delivery:
    with stalling(daemon, f"/v1/workers/{worker}/events/ws", count=STALLED, ticks=series.count):
        return deliver(daemon, worker, series, OBSERVERS, log)


def _p99(deliveries: Sequence[Delivery]) -> list[float]:
    return [delivery.seen.p99_ms for delivery in deliveries]


def _p50(deliveries: Sequence[Delivery]) -> str:
    return f"{median(delivery.seen.p50_ms for delivery in deliveries):.2f}"
