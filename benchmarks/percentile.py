"""Percentiles of measured figures."""

from collections.abc import Sequence


def percentile(figures: Sequence[float], percent: int) -> float:
    """Return the smallest figure that `percent` percent do not exceed. `figures` must be sorted and not empty."""
    return figures[-(-len(figures) * percent // 100) - 1]
