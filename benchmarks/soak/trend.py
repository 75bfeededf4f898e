"""Whether a figure stays flat: a slope that single outliers do not move, and a bound for what it adds up to."""

from collections.abc import Sequence
from itertools import combinations
from statistics import median

import attrs

MAX_POINTS = 400
"""The slope takes all pairs of at most so many points."""

WARM_UP = 1 / 3
"""This part of a life is left out: caches fill, pools grow and files get their size."""


@attrs.frozen
class Bound:
    """How much a figure may grow over the judged time.

    Attributes:
        share: As a part of its median.
        floor: In its own unit; the larger of both counts.
    """

    share: float
    floor: float


@attrs.frozen
class Trend:
    """The result for one figure.

    Attributes:
        middle: The median of the figure.
        growth: What its slope adds up to over the judged time.
        allowed: How much that may be.
    """

    middle: float
    growth: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it grew by no more than it may."""
        return self.growth <= self.allowed


def judge(points: Sequence[tuple[float, float]], bound: Bound) -> Trend:
    """Return the trend of a figure.

    Args:
        points: Times in seconds and figures, in order of time, at least two after the warm-up.
        bound: How much it may grow.
    """
    begin, end = points[0][0], points[-1][0]
    judged = [point for point in points if point[0] >= begin + (end - begin) * WARM_UP]
    middle = median(figure for _, figure in judged)
    seconds = judged[-1][0] - judged[0][0]
    return Trend(middle, slope(judged) * seconds, max(bound.floor, bound.share * middle))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes of all pairs of points (Theil and Sen), per second."""
    thinned = points[:: -(-len(points) // MAX_POINTS)]
    return median((right[1] - left[1]) / (right[0] - left[0]) for left, right in combinations(thinned, 2))
