"""The time until the daemon serves with 10,000 Workers, 1,000,000 entries and 1,000,000 events, against none.

It is measured from the start of the process to the line that says it is ready, on an `fs:` store whose files are in
the page cache.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.filling import fill
from benchmarks.rows import Plan, Row, at_most
from benchmarks.servers import Daemon, installed, remove

WORKERS = 10_000
EVENTS = 1_000_000


def measure(plan: Plan) -> Sequence[Row]:
    """Measure the time with the large store and with an empty one."""
    folder = plan.folder / "start"
    workers, events = plan.size(WORKERS, 500), plan.size(EVENTS, 50_000)
    try:
        fill(folder / "large", workers=workers, events=events, kind="texts")
        fill(folder / "empty", workers=0, events=0, kind="texts")
        large, empty = plan.interleave(
            lambda: _start_s(folder, folder / "large"), lambda: _start_s(folder, folder / "empty")
        )
    finally:
        remove(folder)
    return [Row(f"start with {workers:,} Workers, {events:,} events", "s", large, empty, at_most(2.0))]


def _start_s(folder: Path, store: Path) -> float:
    with Daemon(installed(), folder / "daemon", store=f"fs:{store}") as daemon:
        return daemon.ready_s
