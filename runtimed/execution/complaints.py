"""Alerts about what a program said wrongly, a bounded number in each run."""

from collections.abc import Iterator

from runtimed.model.event import Alert, AlertLevel

MAX_TOLD = 5
"""How many complaints of a run are told one by one; the others are counted."""


def alert(message: str, level: AlertLevel = "warn") -> Alert:
    """An alert of a Worker's. The Runtime sets its time when it takes the event."""
    return Alert(level, "worker", message, timestamp_ms=0)


class Complaints:
    """Counts what was complained of since the last run began or ended."""

    def __init__(self) -> None:
        self._count = 0

    def about(self, message: str) -> Iterator[Alert]:
        """The alert that tells of one more, while there are few."""
        self._count += 1
        if self._count <= MAX_TOLD:
            yield alert(message)

    def rest(self) -> Iterator[Alert]:
        """The alert that counts those that were not told, if any; counting begins anew."""
        untold, self._count = self._count - MAX_TOLD, 0
        if untold > 0:
            yield alert(f"{untold:,} more lines were left out in the same way")
