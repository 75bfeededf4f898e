"""Counts of values by size, for statistics."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from math import inf


class Histogram:
    """Counts values in buckets. One thread at a time may observe; others may read meanwhile.

    Attributes:
        sum: The sum of all values.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start without values.

        Args:
            bounds: The largest value of each bucket, ascending. One more bucket has all larger values.
        """
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, ascending and then infinity, with how many values are not larger."""
        yield from zip(chain(self._bounds, [inf]), accumulate(list(self._counts)), strict=True)


COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMIT_CHANGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class CommitHistograms:
    """The commits of a store.

    Attributes:
        seconds: How long each took, in seconds.
        changes: How many Changes each had.
    """

    def __init__(self) -> None:
        self.seconds = Histogram(COMMIT_SECONDS)
        self.changes = Histogram(COMMIT_CHANGES)

    def observe(self, seconds: float, changes: int) -> None:
        """Count a commit."""
        self.seconds.observe(seconds)
        self.changes.observe(changes)
