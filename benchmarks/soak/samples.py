"""What is sampled: what the process of the daemon holds, the size of its store, and what its metrics count."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.soak.daemon import SoakedDaemon
from benchmarks.soak.trend import Bound

MIB = 2**20
INTERVAL_S = 0.5

BOUNDS = {
    "resident_bytes": Bound(0.05, 4 * MIB),
    "descriptors": Bound(0.05, 4),
    "threads": Bound(0.0, 1),
    "processes": Bound(0.0, 4),
    "store_bytes": Bound(0.1, 4 * MIB),
    "observers": Bound(0.0, 2),
    "workers": Bound(0.0, 2),
}
"""Each figure, and how much it may grow after the warm-up."""

METRICS = {
    "descriptors": "process_open_fds",  # which the daemon hides from other processes of its user
    "observers": "runtimed_observers",
    "workers": "runtimed_workers",
}
"""The figures that the daemon counts itself, by the names of their metrics."""


@attrs.frozen
class Sample:
    """The figures of a moment.

    Attributes:
        life: Which daemon it was, from 1; each restart begins another life.
        seconds: The time since the soak began.
        figures: The figures by the names of `BOUNDS`.
    """

    life: int
    seconds: float
    figures: dict[str, float]


class Sampler(threading.Thread):
    """Samples a daemon every INTERVAL_S until it is stopped.

    Args:
        daemon: The daemon.
        life: Its number.
        began: The time of the monotonic clock at which the soak began.
        on_failure: Called with the error if no further sample can be taken.

    Attributes:
        samples: All samples so far.
    """

    def __init__(
        self, daemon: SoakedDaemon, life: int, began: float, on_failure: Callable[[Exception], None]
    ) -> None:
        super().__init__(name="sampler")
        self.samples: list[Sample] = []
        self._daemon, self._life, self._began, self._on_failure = daemon, life, began, on_failure
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            while not self._stopped.wait(INTERVAL_S):
                self.samples.append(Sample(self._life, time.monotonic() - self._began, self._figures()))
        except Exception as error:  # noqa: BLE001 a soak without samples has failed
            self._on_failure(error)

    def stop(self) -> None:
        """Take no further sample. Returns once the last one is taken."""
        self._stopped.set()
        self.join()

    def _figures(self) -> dict[str, float]:
        process = Path(f"/proc/{self._daemon.pid}")
        counted = self._daemon.metrics()
        return {
            "resident_bytes": self._daemon.resident_bytes(),
            "threads": len(list((process / "task").iterdir())),
            "processes": sum(map(_count_children, process.glob("task/*/children"))),
            "store_bytes": sum(file.stat().st_size for file in self._daemon.place.store.glob("runtime.sqlite3*")),
            **{name: counted[metric] for name, metric in METRICS.items()},
        }


def _count_children(task: Path) -> int:
    try:
        return len(task.read_text().split())
    except FileNotFoundError:  # the thread has ended
        return 0
