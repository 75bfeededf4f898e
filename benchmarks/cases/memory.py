"""The memory of the daemon with 10,000 idle Workers, and with 1,000 idle observers, against none.

It is the resident memory of one daemon with an `fs:` store and the echo backend, before and after, in millions of
bytes.
"""

from collections.abc import Sequence

from benchmarks.observers import watching
from benchmarks.rows import Plan, Row, at_most_more
from benchmarks.servers import Daemon, installed, remove

WORKERS = 10_000
OBSERVERS = 1_000
MB = 10**6


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the memory of the same daemon before and after."""
    workers, observers = plan.size(WORKERS, 500), plan.size(OBSERVERS, 100)
    try:
        [of_workers] = plan.interleave(lambda: _with_workers(plan, workers))
        [of_observers] = plan.interleave(lambda: _with_observers(plan, observers))
    finally:
        remove(plan.folder / "memory")
    return [
        _row(f"{workers:,} idle Workers", of_workers, 60),
        _row(f"{observers:,} idle observers", of_observers, 40),
    ]


def _row(case: str, measured: Sequence[tuple[float, float]], megabytes: float) -> Row:
    after, before = ([figures[place] for figures in measured] for place in (1, 0))
    return Row(case, "MB", after, before, at_most_more(megabytes))


def _with_workers(plan: Plan, count: int) -> tuple[float, float]:
    with _daemon(plan) as daemon:
        daemon.create_worker()
        before = daemon.resident_bytes()
        daemon.create_workers(count)
        return before / MB, daemon.resident_bytes() / MB


def _with_observers(plan: Plan, count: int) -> tuple[float, float]:
    log = plan.folder / "memory" / "observers.log"
    with _daemon(plan) as daemon:
        feed = f"/v1/workers/{daemon.create_worker()}/events/ws"
        with watching(daemon, feed, count=1, ticks=1, log=log):
            before = daemon.resident_bytes()
        with watching(daemon, feed, count=count, ticks=1, log=log):
            return before / MB, daemon.resident_bytes() / MB


def _daemon(plan: Plan) -> Daemon:
    folder = plan.folder / "memory"
    remove(folder)
    return Daemon(installed(), folder, store=f"fs:{folder / 'store'}")
