"""Frames delivered for each second of the server's processor time: one Worker, many observers, 1,000 events a second.

The baseline encodes each event once and sends it to each observer by `send_str`. The observers are in another
process, and check that each gets every event once and in order. If the machine cannot serve them at that rate, the
server is late. The figure is still the cost of a frame, and a note has the rate that was reached.
"""

from collections.abc import Sequence
from statistics import median

from benchmarks.rows import Plan, Row, at_least
from benchmarks.series import Delivery, deliver
from benchmarks.servers import Baseline, Daemon, loaded, remove
from benchmarks.ticks import Series

RATE = 1_000
OBSERVERS = {100: 5_000, 1_000: 1_000}
"""The number of observers, and the events that each gets."""


def measure(plan: Plan) -> Sequence[Row]:
    """Measure frames for each second of processor time, for each number of observers."""
    try:
        return [_row(plan, observers, plan.size(events, 500)) for observers, events in OBSERVERS.items()]
    finally:
        remove(plan.folder / "fan_out")


def _row(plan: Plan, observers: int, events: int) -> Row:
    folder, series = plan.folder / "fan_out" / str(observers), Series(events, RATE)
    log = folder / "observers.log"
    with (
        Daemon(loaded(), folder, store=f"fs:{folder / 'store'}") as daemon,
        Baseline("broadcasting", folder) as plain,
    ):
        worker = daemon.create_worker()
        ours, baseline = plan.interleave(
            lambda: deliver(daemon, worker, series, observers, log),
            lambda: deliver(plain, worker, series, observers, log),
        )
    return Row(
        f"fan-out to {observers:,} observers",
        "frames/CPU s",
        [delivery.frames_per_cpu_s for delivery in ours],
        [delivery.frames_per_cpu_s for delivery in baseline],
        at_least(4.0),
        f"of {RATE:,} events a second, ours delivered {_rate(ours)} and the baseline {_rate(baseline)}",
    )


def _rate(deliveries: Sequence[Delivery]) -> str:
    return f"{median(delivery.rate for delivery in deliveries):,.0f}"
