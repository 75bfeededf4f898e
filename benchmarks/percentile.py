"""The part of a distribution that most figures are below."""

from collections.abc import Sequence


def percentile(figures: Sequence[float], percent: int) -> float:
    """The smallest figure that so many percent do not exceed; `figures` are sorted, and at least one."""
    return figures[-(-len(figures) * percent // 100) - 1]
