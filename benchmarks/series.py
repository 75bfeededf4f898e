"""A series of events from one Worker, or from the baseline, to all observers."""

import time
from pathlib import Path

import attrs

from benchmarks.observers import Seen, watching
from benchmarks.servers import Server
from benchmarks.ticks import Series


@attrs.frozen
class Delivery:
    """The result of a series.

    Attributes:
        series: What was sent.
        seen: What the observers saw.
        seconds: The time from the order to the last tick.
        cpu_s: The processor time of the server.
    """

    series: Series
    seen: Seen
    seconds: float
    cpu_s: float

    @property
    def frames_per_cpu_s(self) -> float:
        """Frames for each second of the server's processor time."""
        return self.seen.ticks / self.cpu_s

    @property
    def frames_per_s(self) -> float:
        """Frames a second at all observers together."""
        return self.seen.ticks / self.seconds

    @property
    def rate(self) -> float:
        """Events a second at each observer, as they came."""
        return self.series.count / self.seconds


def deliver(server: Server, worker: str, series: Series, observers: int, log: Path) -> Delivery:
    """Order a series, and wait until each observer has all of it."""
    path = f"/v1/workers/{worker}"
    with watching(server, f"{path}/events/ws", count=observers, ticks=series.count, log=log) as watch:
        began, before = time.monotonic(), server.cpu_seconds()
        server.post(f"{path}/input", {"kind": "user", "content": series.order()})
        seen = watch.seen()
        return Delivery(series, seen, seen.ended - began, server.cpu_seconds() - before)
