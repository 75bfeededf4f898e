"""Alerts about invalid output of a program, a bounded number in each run."""

from collections.abc import Iterator

from runtimed.model.event import Alert, AlertLevel

MAX_WARNINGS = 5
"""How many warnings of a run are emitted individually. The others are only counted."""


def alert(message: str, level: AlertLevel = "warn") -> Alert:
    """Make an alert of a Worker. The Runtime sets its time when it takes the event.

    Args:
        message: What happened, for people.
        level: How severe it is.
    """
    return Alert(level, "worker", message, timestamp_ms=0)


class Warnings:
    """Count the warnings since the last run began or ended."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, message: str) -> Iterator[Alert]:
        """Yield an alert for one more warning, unless MAX_WARNINGS were emitted already."""
        self._count += 1
        if self._count <= MAX_WARNINGS:
            yield alert(message)

    def summary(self) -> Iterator[Alert]:
        """Yield an alert that counts the warnings left out, if any, and start counting again."""
        left_out, self._count = self._count - MAX_WARNINGS, 0
        if left_out > 0:
            yield alert(f"{left_out:,} more lines were left out in the same way")
