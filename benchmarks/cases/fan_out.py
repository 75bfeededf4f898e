"""Frames delivered for each second of the server's processor time: one Worker, many observers, 1,000 events a second.

The baseline encodes each event once and sends it to each by `send_str`. The observers are in another process. Where
they are more than the machine can serve at that rate, the server is late; what counts is still what a frame costs.
"""

from collections.abc import Sequence

from benchmarks.observers import watching
from benchmarks.rows import Plan, Row, at_least
from benchmarks.servers import Baseline, Daemon, Server, loaded, remove
from benchmarks.ticks import Series

RATE = 1_000
OBSERVERS = {100: 5_000, 1_000: 1_500}
"""How many observers, and how many events each gets."""


def measure(plan: Plan) -> Sequence[Row]:
    """The frames for a second of processor time, for each number of observers."""
    try:
        return [_row(plan, observers, plan.size(events, 500)) for observers, events in OBSERVERS.items()]
    finally:
        remove(plan.folder / "fan_out")


def _row(plan: Plan, observers: int, events: int) -> Row:
    folder = plan.folder / "fan_out" / str(observers)
    store = f"fs:{folder / 'store'}"
    with Daemon(loaded(), folder, store=store) as daemon, Baseline("broadcasting", folder) as plain:
        path = f"/v1/workers/{daemon.create_worker()}"

        def frames(server: Server) -> float:
            log = folder / "observers.log"
            with watching(server, f"{path}/events/ws", count=observers, ticks=events, log=log) as watch:
                before = server.cpu_seconds()
                server.post(f"{path}/input", {"kind": "user", "content": Series(events, RATE).order()})
                return watch.seen().ticks / (server.cpu_seconds() - before)

        ours, baseline = plan.interleave(lambda: frames(daemon), lambda: frames(plain))
    return Row(f"fan-out to {observers:,} observers", "frames/CPU s", ours, baseline, at_least(4.0))
