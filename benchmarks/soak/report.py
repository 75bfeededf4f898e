"""What a soak leaves: a CSV of all samples, a plot of them, and a table of the trends."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.plot import LinearScale, draw
from benchmarks.rows import Curve
from benchmarks.soak.samples import BOUNDS, Sample
from benchmarks.soak.trend import Trend

MAX_POINTS = 150


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write `soak.csv` and, if there are samples, `soak.svg` into a folder, in place of those of an earlier soak."""
    plot = folder / "soak.svg"
    plot.unlink(missing_ok=True)
    with (folder / "soak.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["life", "seconds", *BOUNDS])
        for sample in samples:
            rows.writerow([sample.life, f"{sample.seconds:.2f}", *(f"{sample.figures[name]:.0f}" for name in BOUNDS)])
    if not samples:
        return
    thinned = samples[:: -(-len(samples) // MAX_POINTS)]
    curves = [
        Curve(name.replace("_", " "), "seconds", "daemon", [(one.seconds, one.figures[name]) for one in thinned])
        for name in BOUNDS
    ]
    plot.write_text(draw(curves, LinearScale), encoding="utf-8")


def table(trends: Mapping[str, Trend]) -> str:
    """Return a line for each figure."""
    head = f"{'figure':<16} {'median':>14} {'growth':>14} {'allowed':>14}"
    lines = [
        f"{name:<16} {trend.middle:>14,.0f} {trend.growth:>14,.0f} {trend.allowed:>14,.0f}"
        f"  {'flat' if trend.is_flat else 'GROWS'}"
        for name, trend in trends.items()
    ]
    return "\n".join([head, *lines])
