"""From when an event is due to its being read, 99th percentile: the `fs:` store against the one in memory.

100 observers of one Worker, 1,000 events a second. An event has the time at which it was due, by the clock that all
processes share. So the delay has all of it: the wait behind other work, the commit, and the observers served before.
"""

from collections.abc import Sequence
from statistics import median

from benchmarks.rows import Plan, Row, at_most
from benchmarks.series import Delivery, deliver
from benchmarks.servers import Daemon, loaded, remove
from benchmarks.ticks import Series

RATE = 1_000
EVENTS = 5_000
OBSERVERS = 100


def measure(plan: Plan) -> Sequence[Row]:
    """The delay with each store."""
    folder, series = plan.folder / "latency", Series(plan.size(EVENTS, 500), RATE)
    log = folder / "observers.log"
    try:
        with (
            Daemon(loaded(), folder / "durable", store=f"fs:{folder / 'store'}") as durable,
            Daemon(loaded(), folder / "memory") as memory,
        ):
            stored, kept = durable.create_worker(), memory.create_worker()
            on_disk, in_memory = plan.interleave(
                lambda: deliver(durable, stored, series, OBSERVERS, log),
                lambda: deliver(memory, kept, series, OBSERVERS, log),
            )
    finally:
        remove(folder)
    return [
        Row(
            f"event to frame, p99, {OBSERVERS} observers",
            "ms",
            [delivery.seen.p99_ms for delivery in on_disk],
            [delivery.seen.p99_ms for delivery in in_memory],
            at_most(3.0),
            f"the median delay is {_p50(on_disk)} ms with fs:, {_p50(in_memory)} ms in memory",
        )
    ]


def _p50(deliveries: Sequence[Delivery]) -> str:
    return f"{median(delivery.seen.p50_ms for delivery in deliveries):.2f}"
